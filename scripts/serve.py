"""Serve a page to ask a run questions, and the same answers as JSON.

    python scripts/serve.py RUN [--corpus FILE...] [--host 127.0.0.1] [--port 8000] [--index FACTORY]

RUN is a run folder with `model/` and `embeddings/passage/`; FILE is the corpus that was encoded. Open the printed
address in a browser, or GET /search?q=QUESTION&k=10&method=exact. BM25 and hybrid search are offered after
`search.py method=bm25` has built the index. Whoever reaches the address can ask, so only this machine can by default.
"""

import argparse
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # no warning about the unused pooler
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from dpr_lightning.errors import report_user_errors
from dpr_lightning.run_dir import RunDir
from dpr_lightning.serving.server import serve

if TYPE_CHECKING:
    from dpr_lightning.searcher import Searcher


def main() -> None:
    """Read the command line and serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN")
    parser.add_argument("--corpus", nargs="+", metavar="FILE", help="default: the corpus of the run's training")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="model folder (default: RUN/model)")
    parser.add_argument("--index", metavar="FACTORY", help="use this index of the run, e.g. HNSW32,Flat")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    args = parser.parse_args()
    run = RunDir(args.run_dir)
    logging.basicConfig(format="%(message)s")

    def load() -> "Mapping[str, Searcher]":
        from dpr_lightning.data.sources import open_corpus
        from dpr_lightning.serving.searchers import open_searchers
        from dpr_lightning.training_config import training_corpus

        corpus = args.corpus or open_corpus(**training_corpus(run))
        return open_searchers(run, corpus=corpus, model_dir=args.model, index=args.index)

    with report_user_errors():
        serve(load, name=args.run_dir.resolve().name, host=args.host, port=args.port)


if __name__ == "__main__":
    main()
