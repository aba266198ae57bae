"""Measure passages per second of encoding: our engine, sentence-transformers, and a padded loop in file order.

    python benchmarks/encode.py [--corpus FILE …] [--model FOLDER] [--passages 512] [--repeats 5] [--whole 20000]

Prints JSON lines. The contestants take turns within one run over the same passages, with the same weights, mean pooling
and L2 norm; a ratio is the median over the turns. `flops_share` is the arithmetic of the real tokens, divided by the
time and by the speed of the machine's matrix product in the same precision, measured in the same turn. `--whole` also
compares the process `python encode.py` on this many passages with the engine alone; 0 skips that. Needs the quickstart
data, or `--corpus` and `--model`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from common import ALL_SETTINGS, over_turns, quiet, report, report_ratio, take_turns, timed

from dpr_lightning.data.sources import open_corpus
from dpr_lightning.embeddings.file import open_embeddings
from dpr_lightning.encoding.stage import ShardEncoder
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.inference import resolve_precision
from dpr_lightning.model.settings import Settings

SETTINGS = Settings(pooling="mean", normalize=True, passage_max_length=156)
BATCHES = (8, 16, 32, 64, 128)  # sentence-transformers runs at the fastest of these
DTYPES = {"32": torch.float32, "bf16": torch.bfloat16}
MATMUL_SIZE, MATMULS = 2048, 4


# A contestant is a function that embeds all passages and returns its seconds and the embeddings.


def engine(model, corpus, precision):
    """Return the contestant that does what encode.py does, including the file."""
    source, bi_encoder = open_corpus(str(corpus)), load_bi_encoder(model, settings=SETTINGS, explicit=ALL_SETTINGS)

    def run():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "00-of-01.safetensors"
            encoder = ShardEncoder(bi_encoder, source, side="passage", precision=precision)
            took, _ = timed(lambda: encoder.encode(path))
            return took, np.array(open_embeddings(path).array)

    return run


def sentence_transformers(model, texts, precision, batch_size):
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model), device="cpu", model_kwargs={"dtype": DTYPES[precision]})
    encoder.max_seq_length = SETTINGS.passage_max_length
    options = {"batch_size": batch_size, "normalize_embeddings": True, "convert_to_tensor": True}

    def run():
        took, embeddings = timed(lambda: encoder.encode(texts, **options))
        return took, embeddings.float().numpy()

    return run


def padded_loop(model, texts):
    """Return the contestant that encodes like Tevatron v1: batches of 32 in file order, all padded to the maximum."""
    bi_encoder = load_bi_encoder(model, settings=SETTINGS, explicit=ALL_SETTINGS).eval()
    tokenizer = bi_encoder.inputs.tokenizer
    options = {"padding": "max_length", "truncation": True, "max_length": SETTINGS.passage_max_length}

    def embed():
        for first in range(0, len(texts), 32):
            batch = tokenizer(texts[first : first + 32], return_tensors="pt", **options)
            yield bi_encoder.passage(batch["input_ids"], batch["attention_mask"])

    @torch.inference_mode()
    def run():
        return timed(lambda: torch.cat(list(embed())).numpy())

    return run


def matmul(precision):
    """Return the seconds of some matrix products."""
    a, b = torch.randn(2, MATMUL_SIZE, MATMUL_SIZE).to(DTYPES[precision])
    a @ b
    return timed(lambda: [a @ b for _ in range(MATMULS)])[0]


def flops(transformer, lengths):
    """Return the arithmetic of the transformer for rows of these lengths: the weights and attention's two products."""
    matrices = sum(weight.numel() for weight in transformer.encoder.parameters() if weight.ndim == 2)
    config = transformer.config
    attention = 4 * config.hidden_size * config.num_hidden_layers
    return sum(2 * matrices * length + attention * length**2 for length in lengths)


def best_batch(model, texts, precision):
    """Return the batch size at which sentence-transformers is fastest; each is tried once after a warm-up."""
    trials = {size: sentence_transformers(model, texts[:256], precision, size) for size in BATCHES}
    return min(trials, key=lambda size: [trials[size]() for _ in range(2)][1][0])


def contestants(model, corpus, texts, best):
    """Return the contestants by name and precision, given the best batch size in each precision."""
    all_ = {
        ("padded loop 32", "32"): padded_loop(model, texts),
        ("sentence-transformers 32, batch 32", "32"): sentence_transformers(model, texts, "32", 32),
    }
    for precision, size in best.items():
        all_[f"engine {precision}", precision] = engine(model, corpus, precision)
        name = f"sentence-transformers {precision}, best batch ({size})"
        all_[name, precision] = sentence_transformers(model, texts, precision, size)
    return all_


def compare(model, corpus, name, repeats):
    rows = open_corpus(str(corpus)).rows
    texts = [f"{row['title']} {row['text']}" if row["title"] else row["text"] for row in rows]
    bi_encoder = load_bi_encoder(model, settings=SETTINGS, explicit=ALL_SETTINGS)
    default = resolve_precision("auto", torch.device("cpu"))
    lengths = [len(row) for row in bi_encoder.inputs.encode_passages(rows["title"], rows["text"])]
    work = flops(bi_encoder.passage.transformer, lengths)
    best = {precision: best_batch(model, texts, precision) for precision in dict.fromkeys(("32", default))}
    runs = contestants(model, corpus, texts, best)
    _, exact = runs["padded loop 32", "32"]()
    for (what, precision), run in runs.items():
        similarity = (run()[1] * exact).sum(1).min()  # the comparison means nothing unless all embed alike
        assert similarity > (0.999 if precision == "32" else 0.98), (what, similarity)
    timers = {("matmul", precision): lambda precision=precision: matmul(precision) for precision in best}
    turns = take_turns(timers | {key: lambda run=run: run()[0] for key, run in runs.items()}, repeats)
    products = {precision: turns.pop(("matmul", precision)) for precision in best}
    for (what, precision), took in turns.items():
        seconds = zip(took, products[precision], strict=True)
        share = statistics.median(work / a * b / (MATMULS * 2 * MATMUL_SIZE**3) for a, b in seconds)
        speeds = over_turns("passages_per_s", [len(texts) / one for one in took])
        report(corpus=name, what=what, **speeds, flops_share=share)
    for ours in (key for key in turns if key[0].startswith("engine")):
        for other in (key for key in turns if key != ours):
            report_ratio(f"{ours[0]} / {other[0]}, passages/s", turns[other], turns[ours], corpus=name)
    report(corpus=name, passages=len(texts), tokens=sum(lengths), median_length=statistics.median(lengths))


def whole_process(model, corpus, folder, passages):
    """Compare `python encode.py` from start to end with the engine, on the corpus repeated up to this many rows."""
    path, rows = folder / "whole.jsonl", open_corpus(str(corpus)).rows
    with path.open("w") as file:
        for number in range(passages):
            file.write(json.dumps({**rows[number % len(rows)], "docid": f"{number}"}) + "\n")
    took, _ = engine(model, path, "auto")()
    settings = [f"model.{key}={json.dumps(value)}" for key, value in asdict(SETTINGS).items()]
    files = ["data=files", f"data.corpus={path}", f"run_dir={folder / 'run'}", f"model_dir={model}", "num_shards=1"]
    command = [sys.executable, Path(__file__).parent.parent / "encode.py", *files, *settings]
    whole, _ = timed(lambda: subprocess.run(command, check=True, capture_output=True))
    report(ratio=f"python encode.py / engine, {passages:,} passages", median=took / whole, seconds=[whole, took])


def sample(corpus, passages, path):
    """Write every n-th passage of a corpus, in file order, as a corpus of its own."""
    rows = open_corpus(str(corpus)).rows
    chosen = np.linspace(0, len(rows) - 1, min(passages, len(rows))).round().astype(int)
    path.write_text("".join(json.dumps(rows[int(row)]) + "\n" for row in chosen))
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", nargs="+", default=["data/quickstart/corpus.jsonl.gz"])
    parser.add_argument("--model", default="data/quickstart/encoder")
    parser.add_argument("--passages", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--whole", type=int, default=20_000)
    args = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as temporary:
        folder, model = Path(temporary), Path(args.model).resolve()
        for number, corpus in enumerate(args.corpus):
            small = sample(corpus, args.passages, folder / f"{number}.jsonl")
            compare(model, small, Path(corpus).parent.name, args.repeats)
        if args.whole:
            whole_process(model, args.corpus[0], folder, args.whole)
    report(threads=torch.get_num_threads(), torch=torch.__version__, cpus=os.cpu_count())


if __name__ == "__main__":
    main()
