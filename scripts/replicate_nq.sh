#!/usr/bin/env bash
# Run the paper's Natural Questions experiment: train on 4 GPUs, encode 21 million passages in 20 shards, search,
# evaluate. After an interruption, run it again: it skips finished parts and resumes unfinished ones.
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
