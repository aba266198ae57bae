"""Count the embeddings that depend on their batch on a GPU: packed bf16 batches as they are, and filled up to one size.

    PYTHONPATH=. python benchmarks/gpu_bits.py [--passages 4096] [--tiny]

Prints a JSON line per trial: how many embeddings have other bits than in batches that are sorted by length. The model
is BERT-base with random weights in bfloat16; the texts are those of gpu_encode.py. `--tiny` is a smoke test.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import report
from gpu_encode import random_texts
from gpu_train import make_model

from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.inference import for_inference
from dpr_lightning.model.packed import PackedEncoder


def batches(order, lengths, budget):
    """Yield rows in an order, at most `budget` tokens at a time."""
    rows, tokens = [], 0
    for row in order:
        if rows and tokens + lengths[row] > budget:
            yield rows
            rows, tokens = [], 0
        rows.append(row)
        tokens += lengths[row]
    yield rows


def embed(encoder, ids, order, budget, fill_to):
    """Return the embeddings [rows, dim] of all ids."""
    device, found = next(encoder.parameters()).device, torch.empty(len(ids), encoder.dim)
    for rows in batches(order, list(map(len, ids)), budget):
        batch = encoder.pack([ids[row] for row in rows], fill_to=fill_to)
        batch = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        with torch.inference_mode():
            found[rows] = encoder(**batch)[: len(rows)].float().cpu()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=4096)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    sizes = (2048,) if args.tiny else (65_536, 16_384, 8192)
    texts = random_texts(64 if args.tiny else args.passages)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), args.tiny)
        bi_encoder = load_bi_encoder(folder)
    encoder = PackedEncoder(for_inference(bi_encoder.passage, device=device, precision="bf16"))
    ids = bi_encoder.inputs.encode_passages([""] * len(texts), texts)
    by_length = np.argsort([len(row) for row in ids]).tolist()
    shuffled = np.random.default_rng(1).permutation(len(ids)).tolist()
    for filled in (False, True):
        for size in sizes:
            fill_to = size if filled else 0
            expected = embed(encoder, ids, by_length, size, fill_to)
            for budget in (size, size // 2, size // 8):
                found = embed(encoder, ids, shuffled, budget, fill_to)
                report(
                    size=size,
                    filled=filled,
                    budget=budget,
                    of=len(ids),
                    other_bits=int((found != expected).any(1).sum()),
                    largest=float((found - expected).abs().max()),
                )


if __name__ == "__main__":
    main()
