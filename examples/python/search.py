"""Search RUN's embeddings, then ask a question: python examples/python/search.py RUN CORPUS QUESTION"""

import sys
from pathlib import Path

from dpr_lightning import Searcher
from dpr_lightning.retrieval.stage import search
from dpr_lightning.run_dir import RunDir

run_dir, corpus, question = sys.argv[1:]
print(search(RunDir(Path(run_dir)), split="test", depth=20))
(ranking,) = Searcher(run_dir, corpus=corpus).search([question], depth=3)
for score, docid, passage in zip(ranking.scores, ranking.docids, ranking.passages, strict=True):
    print(f"{score:.3f} {docid} {passage['title']}: {passage['text'][:80]}")
