#!/usr/bin/env bash
# The paper's complete Natural Questions run: train on 4 GPUs, encode 21 million passages in 20 shards, search, evaluate.
# Start it again after an interruption: finished parts are skipped, unfinished ones are continued.
#
#   bash scripts/replicate_nq.sh [EXPERIMENT]     nq_untie (default), nq, or nq_single_gpu
set -euo pipefail
cd "$(dirname "$0")/.."
experiment=${1:-nq_untie}
run=runs/$experiment

[ -e "$run/model" ] || python train.py experiment="$experiment"
python encode.py experiment="$experiment"
[ -e "$run/embeddings/query/test.safetensors" ] || python encode.py experiment="$experiment" side=query
[ -e "$run/rankings/test.trec" ] || python search.py experiment="$experiment"
python evaluate.py experiment="$experiment" overwrite=true
