#!/usr/bin/env bash
# Run the quickstart from data to table. A rerun continues where it stopped. PYTHON is the interpreter to use.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
ours=runs/quickstart published=runs/published

"$python" examples/quickstart/build.py

# Encode, search and evaluate in the same way with the published encoder and with the fine-tuned one.
# The encoder's folder says 256 tokens per query; questions have at most 34.
[ -e $ours/model ] || "$python" train.py experiment=quickstart model.query_max_length=32
for run in $published $ours; do
    settings=(experiment=quickstart run_dir=$run)
    [ $run = $ours ] || settings+=(model_dir=data/quickstart/encoder model.passage_max_length=256)
    "$python" encode.py "${settings[@]}"
    [ -e $run/embeddings/query/test.safetensors ] || "$python" encode.py "${settings[@]}" side=query
    "$python" search.py "${settings[@]}" overwrite=true
    "$python" evaluate.py "${settings[@]}" overwrite=true
done

"$python" search.py experiment=quickstart method=bm25 overwrite=true
"$python" evaluate.py experiment=quickstart method=bm25 name=bm25 run_dir=$ours overwrite=true
"$python" scripts/compare.py $published $ours/evaluation/test.bm25 $ours
