#!/usr/bin/env bash
# Run the quickstart from data to table. A rerun continues where it stopped. PYTHON is the interpreter to use.
# With -m, a command runs all combinations of the values in one process and skips what is finished.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python} data=data/quickstart

"$python" examples/quickstart/build.py

# The encoder as published, which also ranks the training questions, and BM25.
published=(experiment=quickstart run_dir=runs/published model_dir=$data/encoder model.passage_max_length=256)
"$python" encode.py "${published[@]}" skip_finished=true
"$python" encode.py -m "${published[@]}" side=query split=train,test
"$python" search.py -m "${published[@]}" split=train,test
"$python" search.py "${published[@]}" method=bm25 overwrite=true
"$python" evaluate.py -m "${published[@]}" method=exact,bm25

# Round 1 learns from passages that BM25 ranks high, round 2 from passages that the encoder itself ranks high, but
# clearly below the answer. The encoder's folder says 256 tokens per query; questions have at most 34.
"$python" scripts/mine_negatives.py runs/published/rankings/train.trec --train $data/train.jsonl.gz \
    --corpus $data/corpus.jsonl.gz --match-title --share 0.95 --keep-questions --out $data/mined.jsonl.gz --overwrite
round_1=(experiment=quickstart run_dir=runs/round-1)
round_2=(experiment=quickstart run_dir=runs/quickstart)
"$python" train.py "${round_1[@]}" model.query_max_length=32 skip_finished=true
"$python" train.py "${round_2[@]}" model.query_max_length=32 skip_finished=true data.train=$data/mined.jsonl.gz

"$python" encode.py -m "${round_1[@]}" side=passage,query
"$python" search.py "${round_1[@]}" overwrite=true
"$python" evaluate.py "${round_1[@]}" overwrite=true

"$python" encode.py -m "${round_2[@]}" side=passage,query
"$python" search.py -m "${round_2[@]}" method=exact,hybrid
"$python" evaluate.py -m "${round_2[@]}" method=exact,hybrid

"$python" scripts/compare.py runs/published runs/published/evaluation/test.bm25 \
    runs/round-1 runs/quickstart runs/quickstart/evaluation/test.hybrid
