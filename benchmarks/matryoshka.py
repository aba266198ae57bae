"""Measure what cutting embeddings costs: accuracy of models at several dimensions (see docs/training.md).

    python benchmarks/matryoshka.py MODEL... --corpus FILE --queries FILE --qrels FILE [--dims 384 128 64 32]

MODEL is a model folder. Prints a JSON line for each model and dimension: the share of questions whose positive passage
is among the first 1, 5 and 20 by inner product.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import quiet, report

from dpr_lightning.data.sources import open_corpus, open_queries
from dpr_lightning.embeddings.file import open_embeddings
from dpr_lightning.encoding.stage import ShardEncoder
from dpr_lightning.evaluation.qrels import read_qrels
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.truncation import truncate

CUTOFFS = (1, 5, 20)


def encode(bi_encoder, source, side):
    """Return ids and embeddings [rows, dim]."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.safetensors"
        ShardEncoder(bi_encoder, source, side=side).encode(path)
        embeddings = open_embeddings(path)
        return list(embeddings.ids), torch.from_numpy(np.array(embeddings.array))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    for name in ("corpus", "queries", "qrels"):
        parser.add_argument(f"--{name}", required=True, metavar="FILE")
    parser.add_argument("--dims", type=int, nargs="+", default=[384, 128, 64, 32])
    args = parser.parse_args()
    quiet()
    judged = read_qrels(Path(args.qrels))
    for model in args.models:
        bi_encoder = load_bi_encoder(model)
        qids, queries = encode(bi_encoder, open_queries(args.queries), "query")
        docids, passages = encode(bi_encoder, open_corpus(args.corpus), "passage")
        relevant = torch.tensor([[judged[qid].get(docid, 0) > 0 for docid in docids] for qid in qids])
        for dim in args.dims:
            cut = [truncate(part, dim, normalize=bi_encoder.settings.normalize) for part in (queries, passages)]
            best = (cut[0] @ cut[1].T).topk(max(CUTOFFS)).indices
            hits = relevant.gather(1, best)
            shares = {f"top-{k}": hits[:, :k].any(1).float().mean().item() for k in CUTOFFS}
            report(model=str(model), dim=dim, questions=len(qids), **shares)


if __name__ == "__main__":
    main()
