"""Measure what batches of one padded length cost, and how many embeddings depend on their neighbours without them.

    python benchmarks/padding.py [--corpus FILE] [--model FOLDER] [--rows 400] [--repeats 5]

`mixed` pads the texts of a batch to the longest, `ours` is the batching of encode.py. Prints a JSON line for each
precision: the time of ours relative to mixed, the same for the tokens, and for both the number of texts whose embedding
differs in a bit between batches of 2,048 and of 300 tokens.
"""

import argparse

import numpy as np
import torch
from common import quiet, report_ratio, take_turns, timed

from dpr_lightning.data.sources import open_corpus
from dpr_lightning.data.tokenizer import MULTIPLE
from dpr_lightning.encoding.batches import length_batches
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.inference import for_inference

BUDGET, SMALL_BUDGET = 2048, 300


def mixed_batches(lengths, budget):
    """Yield the rows of batches from long rows to short ones, each padded to its longest."""
    order, start = np.argsort(-np.asarray(lengths), kind="stable"), 0
    while start < len(order):
        stop = start + max(1, budget // lengths[order[start]])
        yield order[start:stop]
        start = stop


def embed(encoder, inputs, ids, ours, budget):
    """Return the embeddings of token ids [N, dim], and the number of tokens with padding."""
    lengths, tokens = [len(row) for row in ids], 0
    embeddings = [None] * len(ids)
    with torch.inference_mode():
        for rows in length_batches(lengths, budget, MULTIPLE) if ours else mixed_batches(lengths, budget):
            batch = inputs.pad([ids[row] for row in rows], multiple=MULTIPLE if ours else 1)
            tokens += batch["input_ids"].numel()
            for row, embedding in zip(rows, encoder(**batch), strict=True):
                embeddings[row] = embedding
    return torch.stack(embeddings), tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="data/quickstart/corpus.jsonl.gz")
    parser.add_argument("--model", default="data/quickstart/encoder")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    quiet()
    bi_encoder = load_bi_encoder(args.model)
    rows = open_corpus(args.corpus).rows[: args.rows]
    ids = bi_encoder.inputs.encode_passages(rows["title"], rows["text"])
    about = {"corpus": args.corpus, "rows": len(ids), "cpu": torch.backends.cpu.get_cpu_capability()}
    for precision in ("32", "bf16"):
        encoder = for_inference(bi_encoder.passage, device=torch.device("cpu"), precision=precision)
        names = {"ours": True, "mixed": False}

        def turn(ours, encoder=encoder):
            return timed(lambda: embed(encoder, bi_encoder.inputs, ids, ours, BUDGET))

        turns = take_turns(
            {name: lambda ours=ours, turn=turn: turn(ours) for name, ours in names.items()}, args.repeats
        )
        differ, tokens = {}, {}
        for name, ours in names.items():
            embeddings, tokens[name] = turns[name][0][1]
            other, _ = embed(encoder, bi_encoder.inputs, ids, ours, SMALL_BUDGET)
            differ[name] = int((embeddings != other).any(dim=1).sum())
        seconds = [[time for time, _ in turns[name]] for name in names]
        about |= {"precision": precision, "tokens": tokens["ours"] / tokens["mixed"], "texts that differ": differ}
        report_ratio("time of ours / mixed", *seconds, **about)


if __name__ == "__main__":
    main()
