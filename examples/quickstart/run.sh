#!/usr/bin/env bash
# Run the quickstart from data to table. A rerun continues where it stopped. PYTHON is the interpreter to use.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python} data=data/quickstart

"$python" examples/quickstart/build.py

# The encoder as published. -m runs all combinations of the values, one after another in one process.
published=(experiment=quickstart run_dir=runs/published model_dir=$data/encoder model.passage_max_length=256)
"$python" encode.py -m "${published[@]}" side=passage,query
"$python" search.py -m "${published[@]}"
"$python" evaluate.py -m "${published[@]}"

# Round 1: train with negatives from BM25. The encoder's folder says 256 tokens per query; questions have at most 34.
round_1=(experiment=quickstart run_dir=runs/round-1 skip_finished=true)
"$python" train.py "${round_1[@]}" model.query_max_length=32
"$python" encode.py "${round_1[@]}"
"$python" encode.py -m "${round_1[@]}" side=query split=train,test
"$python" search.py -m "${round_1[@]}" split=train,test
"$python" evaluate.py "${round_1[@]}"

# Round 2: go on training with passages that round 1 ranks high, but clearly below the answer.
"$python" scripts/mine_negatives.py runs/round-1/rankings/train.trec --train $data/train.jsonl.gz \
    --corpus $data/corpus.jsonl.gz --match-title --share 0.95 --keep-questions --out $data/mined.jsonl.gz --overwrite
round_2=(experiment=quickstart run_dir=runs/quickstart skip_finished=true)
"$python" train.py "${round_2[@]}" model.name_or_path=runs/round-1/model \
    data.train=$data/mined.jsonl.gz data.passages_per_query=3
"$python" encode.py -m "${round_2[@]}" side=passage,query
"$python" search.py -m "${round_2[@]}" method=exact,bm25,hybrid
"$python" evaluate.py -m "${round_2[@]}" method=exact,bm25,hybrid

"$python" scripts/compare.py runs/published runs/quickstart/evaluation/test.bm25 runs/round-1 runs/quickstart \
    runs/quickstart/evaluation/test.hybrid
