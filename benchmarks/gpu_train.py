"""Training on a GPU: gradient-cache equality in half precision, step time and memory, against sentence-transformers.

    python benchmarks/gpu_train.py [--questions 128] [--repeats 5] [--steps 5] [--tiny]

Prints JSON lines. The model is BERT-base with random weights, the texts are random words: 2 passages a question, query
length 16, passage length 156. Contestants take turns within one run. `--tiny` is a smoke test for a machine without
GPU. Needs the extra `interop` for the comparison.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast

from dpr_lightning.data.collate import Batch
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.training.grad_cache import Side, cached_backward
from dpr_lightning.training.losses.in_batch import InBatchLoss

WORDS = [f"{a}{b}{c}{d}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst" for d in "aeiou"]


def make_model(folder, tiny):
    """A BERT with random weights and a vocabulary of made-up words."""
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = BertConfig(**({**small, "vocab_size": len(WORDS) + 5} if tiny else {}))
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)


def random_batch(questions, device):
    """Questions of 16 and passages of 156 tokens, two passages a question."""
    draw = np.random.default_rng(0)

    def tokens(rows, length):
        ids = torch.from_numpy(draw.integers(5, len(WORDS), (rows, length))).to(device)
        ids[:, 0], ids[:, -1] = 2, 3
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    targets = torch.arange(0, 2 * questions, 2, device=device)
    docids = torch.arange(2 * questions, device=device)
    return Batch(
        tokens(questions, 16),
        tokens(2 * questions, 156),
        targets,
        docids,
        docids[targets][:, None],
        torch.full((2 * questions,), float("nan"), device=device),
    )


def direct(bi_encoder, batch, loss, scale=1.0):
    (loss(*bi_encoder(batch.queries, batch.passages), batch) * scale).backward()


def cached(bi_encoder, batch, loss, chunk, scale=1.0):
    sides = (Side(bi_encoder.query, batch.queries, chunk), Side(bi_encoder.passage, batch.passages, chunk))
    cached_backward(sides, lambda q, p: loss(q, p, batch), lambda value: (value * scale).backward())


def gradient(bi_encoder, run, dtype, device):
    bi_encoder.zero_grad()
    with torch.autocast(device.type, dtype, cache_enabled=False):
        run()
    return torch.cat([p.grad.float().flatten() for p in bi_encoder.parameters() if p.grad is not None])


def check_equality(model, device, questions, dtype, scale):
    """Relative distance of the gradients with and without cache, dropout off."""
    bi_encoder = load_bi_encoder(model).to(device).eval()
    batch, loss = random_batch(questions, device), InBatchLoss()
    whole = gradient(bi_encoder, lambda: direct(bi_encoder, batch, loss, scale), dtype, device)
    parts = gradient(bi_encoder, lambda: cached(bi_encoder, batch, loss, 16, scale), dtype, device)
    return float((whole - parts).norm() / whole.norm())


def contestants(model, device, questions):
    """Functions that run one step each: forward, backward, clip, AdamW."""
    bi_encoder = load_bi_encoder(model).to(device).train()
    compiled = load_bi_encoder(model).to(device).train()
    compiled_forward = torch.compile(compiled) if device.type == "cuda" else compiled
    batch, loss = random_batch(questions, device), InBatchLoss()

    def stepping(module, backward):
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5)

        def step():
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
                backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()

        return step

    transformer = Transformer(str(model), max_seq_length=156)
    other = SentenceTransformer(modules=[transformer, Pooling(transformer.get_word_embedding_dimension(), "cls")]).to(
        device
    )
    features = [
        batch.queries,
        {name: values[0::2] for name, values in batch.passages.items()},
        {name: values[1::2] for name, values in batch.passages.items()},
    ]
    plain = MultipleNegativesRankingLoss(other, scale=1.0)
    in_chunks = CachedMultipleNegativesRankingLoss(other, scale=1.0, mini_batch_size=32)
    labels = torch.zeros(questions, device=device)
    runs = {"direct": stepping(bi_encoder, lambda: direct(bi_encoder, batch, loss))}
    for chunk in (16, 32, 64):
        runs[f"cached {chunk}"] = stepping(bi_encoder, lambda chunk=chunk: cached(bi_encoder, batch, loss, chunk))
    runs["direct, compiled"] = stepping(
        compiled, lambda: loss(*compiled_forward(batch.queries, batch.passages), batch).backward()
    )
    runs["sentence-transformers"] = stepping(other, lambda: plain([dict(f) for f in features], labels).backward())
    runs["sentence-transformers cached 32"] = stepping(
        other, lambda: in_chunks([dict(f) for f in features], labels).backward()
    )
    return runs


def timed(step, steps, device):
    """Seconds a step and peak GB of the device."""
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
    return (time.perf_counter() - start) / steps, peak


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder)
        make_model(model, args.tiny)
        for name, dtype, scale in (("bf16", torch.bfloat16, 1.0), ("fp16, loss scaled by 1024", torch.float16, 1024.0)):
            distance = check_equality(model, device, args.questions, dtype, scale)
            print(json.dumps({"gradient": f"cached against direct, {name}", "relative_distance": distance}), flush=True)
        runs = contestants(model, device, args.questions)
        results = {name: [] for name in runs}
        for _ in range(args.repeats):
            for name, step in runs.items():
                results[name].append(timed(step, args.steps, device))
    for name, turns in results.items():
        seconds = [turn[0] for turn in turns]
        line = {"what": name, "examples_per_s": args.questions / statistics.median(seconds), "peak_gb": turns[-1][1]}
        print(json.dumps(line))
    for name, by in (("direct", "sentence-transformers"), ("cached 32", "sentence-transformers cached 32")):
        ratios = sorted(b[0] / a[0] for a, b in zip(results[name], results[by], strict=True))
        spread = [ratios[0], ratios[-1]]
        print(
            json.dumps({"ratio": f"{name} / {by}, examples/s", "median": statistics.median(ratios), "spread": spread})
        )
    where = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    print(json.dumps({"device": where, "torch": torch.__version__, "tiny": args.tiny}))


if __name__ == "__main__":
    main()
