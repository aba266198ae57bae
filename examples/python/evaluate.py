"""Evaluate RUN's ranking: python examples/python/evaluate.py RUN CORPUS QUERIES"""

import sys
from pathlib import Path

from dpr_lightning.data.sources import open_corpus, open_queries
from dpr_lightning.evaluation.stage import evaluate
from dpr_lightning.run_dir import RunDir

run, corpus, queries = RunDir(Path(sys.argv[1])), open_corpus(sys.argv[2]), open_queries(sys.argv[3])
evaluation = evaluate(run, queries, corpus, split="test", topk=[1, 5, 20])
for k, accuracy in evaluation.metrics["accuracy"].items():
    print(f"top-{k} accuracy: {accuracy:.3f}")
print(evaluation.summary)
