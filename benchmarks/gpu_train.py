"""Measure training on a GPU: the gradients of gradient cache in half precision; time and memory of a step.

    PYTHONPATH=. python benchmarks/gpu_train.py [--questions 128] [--repeats 5] [--steps 5] [--tiny]

Prints JSON lines. The model is BERT-base with random weights; the texts are random words: 2 passages per question,
query length 16, passage length 156. Contestants take turns within one run. `--tiny` is a smoke test without GPU.
Needs the extra `interop` for the comparison with sentence-transformers, `common.py` beside it, and the package.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import report, report_ratio, take_turns, timed
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
    """Write a BERT with random weights and a vocabulary of made-up words."""
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = BertConfig(**({**small, "vocab_size": len(WORDS) + 5} if tiny else {}))
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)


def random_batch(questions, device):
    """Return questions of 16 and passages of 156 tokens, two passages per question."""
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


def relative_distance(model, device, questions, dtype, scale):
    """Return the relative distance of the gradients with and without cache, without dropout."""
    bi_encoder = load_bi_encoder(model).to(device).eval()
    batch, loss = random_batch(questions, device), InBatchLoss()
    expected = gradient(bi_encoder, lambda: direct(bi_encoder, batch, loss, scale), dtype, device)
    chunked = gradient(bi_encoder, lambda: cached(bi_encoder, batch, loss, 16, scale), dtype, device)
    return float((expected - chunked).norm() / expected.norm())


def contestants(model, device, questions):
    """Return functions that run one step each: forward, backward, clip, AdamW."""
    bi_encoder = load_bi_encoder(model).to(device).train()
    compiled = load_bi_encoder(model).to(device).train()
    if device.type == "cuda":
        compiled.query.compile()  # a tied model has one encoder
    batch, loss = random_batch(questions, device), InBatchLoss()

    def stepping(module, backward, fused=None):
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=fused)

        def step():
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
                backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()

        return step

    transformer = Transformer(str(model), max_seq_length=156)
    other = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension(), "cls")]).to(device)
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
    fused = device.type == "cuda"
    runs["direct, fused optimizer"] = stepping(bi_encoder, lambda: direct(bi_encoder, batch, loss), fused)
    runs["direct, compiled"] = stepping(compiled, lambda: direct(compiled, batch, loss))
    runs["direct, compiled, fused optimizer"] = stepping(compiled, lambda: direct(compiled, batch, loss), fused)
    for chunk in (32, 64):
        runs[f"cached {chunk}, compiled, fused optimizer"] = stepping(
            compiled, lambda chunk=chunk: cached(compiled, batch, loss, chunk), fused
        )
    runs["sentence-transformers"] = stepping(other, lambda: plain([dict(f) for f in features], labels).backward())
    runs["sentence-transformers cached 32"] = stepping(
        other, lambda: in_chunks([dict(f) for f in features], labels).backward()
    )
    return runs


def turn(step, steps, device):
    """Return the seconds per step and the peak GB of the device."""
    step()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    took, _ = timed(lambda: [step() for _ in range(steps)], torch.cuda.synchronize if on_gpu else None)
    return took / steps, torch.cuda.max_memory_allocated() / 2**30 if on_gpu else float("nan")


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
            distance = relative_distance(model, device, args.questions, dtype, scale)
            report(gradient=f"cached against direct, {name}", relative_distance=distance)
        runs = contestants(model, device, args.questions)
        timers = {name: lambda step=step: turn(step, args.steps, device) for name, step in runs.items()}
        turns = take_turns(timers, args.repeats)
    seconds = {name: [took for took, _ in results] for name, results in turns.items()}
    for name, results in turns.items():
        speed = args.questions / statistics.median(seconds[name])
        report(what=name, examples_per_s=speed, peak_gb=results[-1][1])
    for name in seconds:
        by = "sentence-transformers cached 32" if "cached" in name else "sentence-transformers"
        report_ratio(f"{name} / {by}, examples/s", seconds[by], seconds[name])
    where = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    report(device=where, torch=torch.__version__, tiny=args.tiny)


if __name__ == "__main__":
    main()
