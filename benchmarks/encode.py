"""Passages per second of encoding: our engine against sentence-transformers and against a padded loop in file order.

    python benchmarks/encode.py [--corpus FILE …] [--model FOLDER] [--passages 512] [--repeats 5] [--whole 20000]

Prints JSON lines. The contestants take turns within one run over the same passages, with the same weights, mean pooling
and L2 norm; a ratio is the median over the turns. `flops_share` is the arithmetic of the real tokens ÷ time ÷ the
machine's matrix product in the same precision, measured in the same turn. `--whole` also times the process `python
encode.py` on so many passages against the engine alone; 0 leaves that out. Needs the quickstart data, or `--corpus`
and `--model`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from dpr_lightning.data.sources import open_corpus
from dpr_lightning.embeddings.file import open_embeddings
from dpr_lightning.encoding.stage import ShardEncoder
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.inference import resolve_precision
from dpr_lightning.model.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
MAX_LENGTH = 156
MODEL_SETTINGS = {"pooling": "mean", "normalize": True, "passage_max_length": MAX_LENGTH}
BATCHES = (8, 16, 32, 64, 128)  # of sentence-transformers, the best of which is chosen
DTYPES = {"32": torch.float32, "bf16": torch.bfloat16}


class Engine:
    """What encode.py runs, file included."""

    def __init__(self, model, corpus, precision):
        self.source, self.precision = open_corpus(corpus), precision
        self.bi_encoder = load_bi_encoder(model, settings=Settings(**MODEL_SETTINGS))

    def __call__(self):
        with tempfile.TemporaryDirectory() as folder:
            encoder = ShardEncoder(self.bi_encoder, self.source, side="passage", precision=self.precision)
            start = time.perf_counter()
            encoder.encode(Path(folder) / "00-of-01.safetensors")
            self.seconds = time.perf_counter() - start
            return np.array(open_embeddings(Path(folder) / "00-of-01.safetensors").array)


class SentenceTransformers:
    def __init__(self, model, texts, precision, batch_size):
        from sentence_transformers import SentenceTransformer

        self.texts, self.batch_size = texts, batch_size
        self.model = SentenceTransformer(str(model), device="cpu", model_kwargs={"dtype": DTYPES[precision]})
        self.model.max_seq_length = MAX_LENGTH

    def __call__(self):
        start = time.perf_counter()
        found = self.model.encode(
            self.texts, batch_size=self.batch_size, normalize_embeddings=True, convert_to_tensor=True
        )
        self.seconds = time.perf_counter() - start
        return found.float().numpy()


class PaddedLoop:
    """As Tevatron v1 encodes: batches of 32 in file order, all padded to the maximum."""

    def __init__(self, model, texts):
        self.texts, self.bi_encoder = texts, load_bi_encoder(model, settings=Settings(**MODEL_SETTINGS)).eval()

    @torch.inference_mode()
    def __call__(self):
        start, embeddings = time.perf_counter(), []
        for first in range(0, len(self.texts), 32):
            batch = self.bi_encoder.inputs.tokenizer(
                self.texts[first : first + 32],
                padding="max_length",
                truncation=True,
                max_length=MAX_LENGTH,
                return_tensors="pt",
            )
            embeddings.append(self.bi_encoder.passage(batch["input_ids"], batch["attention_mask"]))
        found = torch.cat(embeddings).numpy()
        self.seconds = time.perf_counter() - start
        return found


def matmul_flops(precision, size=2048, products=4):
    a, b = torch.randn(2, size, size, dtype=torch.float32).to(DTYPES[precision])
    a @ b
    start = time.perf_counter()
    for _ in range(products):
        a @ b
    return products * 2 * size**3 / (time.perf_counter() - start)


def flops(transformer, lengths):
    """Arithmetic of the transformer for rows of these lengths: weights, and attention's two products."""
    matrices = sum(weight.numel() for weight in transformer.encoder.parameters() if weight.ndim == 2)
    config = transformer.config
    attention = 4 * config.hidden_size * config.num_hidden_layers
    return sum(2 * matrices * length + attention * length**2 for length in lengths)


def best_batch(model, texts, precision):
    """The batch size at which sentence-transformers is fastest, each tried once after a warm-up."""
    trials = {}
    for batch_size in BATCHES:
        trial = SentenceTransformers(model, texts[:256], precision, batch_size)
        trial(), trial()
        trials[batch_size] = trial.seconds
    return min(trials, key=trials.get)


def make_contestants(model, corpus, texts, best):
    """By name, given sentence-transformers' best batch size in each precision; a name says the precision."""
    made = {"padded loop 32": PaddedLoop(model, texts)}
    made["sentence-transformers 32, batch 32"] = SentenceTransformers(model, texts, "32", 32)
    for precision, size in best.items():
        made[f"engine {precision}"] = Engine(model, str(corpus), precision)
        made[f"sentence-transformers {precision}, best batch ({size})"] = SentenceTransformers(
            model, texts, precision, size
        )
    return made


def compare(model, corpus, name, repeats):
    rows = open_corpus(str(corpus)).rows
    texts = [f"{row['title']} {row['text']}" if row["title"] else row["text"] for row in rows]
    bi_encoder, default = (
        load_bi_encoder(model, settings=Settings(**MODEL_SETTINGS)),
        resolve_precision("auto", torch.device("cpu")),
    )
    lengths = [len(row) for row in bi_encoder.inputs.encode_passages(rows["title"], rows["text"])]
    work = flops(bi_encoder.passage.transformer, lengths)
    best = {precision: best_batch(model, texts, precision) for precision in dict.fromkeys(("32", default))}
    contestants = make_contestants(model, corpus, texts, best)
    exact = contestants["padded loop 32"]()
    for what, contestant in contestants.items():
        similarity = (contestant() * exact).sum(1).min()  # the same vectors, or the comparison means nothing
        assert similarity > (0.999 if " 32" in what else 0.98), (what, similarity)
    seconds = {what: [] for what in contestants}
    shares = {what: [] for what in contestants}
    for _ in range(repeats):
        peaks = {precision: matmul_flops(precision) for precision in best}
        for what, contestant in contestants.items():
            contestant()
            seconds[what].append(contestant.seconds)
            shares[what].append(work / contestant.seconds / peaks["32" if " 32" in what else default])
    report_turns(name, len(texts), seconds, shares)
    report(corpus=name, passages=len(texts), tokens=sum(lengths), median_length=statistics.median(lengths))


def report_turns(name, passages, seconds, shares):
    for what, turns in seconds.items():
        speeds = [passages / turn for turn in turns]
        share = median(shares[what])
        report(corpus=name, what=what, passages_per_s=median(speeds), spread=spread(speeds), flops_share=share)
    for ours in (what for what in seconds if what.startswith("engine")):
        for other in (what for what in seconds if what != ours):
            ratios = [b / a for a, b in zip(seconds[ours], seconds[other], strict=True)]
            ratio = f"{ours} / {other}, passages/s"
            report(corpus=name, ratio=ratio, median=median(ratios), spread=spread(ratios))


def median(values):
    return round(statistics.median(values), 3)


def spread(values):
    return [round(min(values), 3), round(max(values), 3)]


def whole_process(model, corpus, folder, passages):
    """Passages/s of `python encode.py` from start to end ÷ those of the engine, on the rows repeated up to a number."""
    path, rows = folder / "whole.jsonl", open_corpus(str(corpus)).rows
    with path.open("w") as file:
        for number in range(passages):
            row = rows[number % len(rows)]
            file.write(json.dumps({**row, "docid": f"{number}"}) + "\n")
    engine = Engine(model, str(path), "auto")
    engine()
    settings = [f"model.{key}={str(value).lower()}" for key, value in MODEL_SETTINGS.items()]
    start = time.perf_counter()
    command = [sys.executable, ROOT / "encode.py", "data=files", f"data.corpus={path}", f"run_dir={folder / 'run'}"]
    subprocess.run(
        [*command, f"model_dir={model}", "num_shards=1", *settings],
        check=True,
        capture_output=True,
    )
    seconds = time.perf_counter() - start
    report(
        ratio=f"python encode.py / engine, {passages:,} passages",
        median=round(engine.seconds / seconds, 3),
        seconds=[round(seconds, 1), round(engine.seconds, 1)],
    )


def report(**values):
    print(json.dumps(values), flush=True)


def sample(corpus, passages, path):
    """Every n-th passage of a corpus, in file order, as a corpus of its own."""
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
    with tempfile.TemporaryDirectory() as temporary:
        folder, model = Path(temporary), Path(args.model).resolve()
        for number, corpus in enumerate(args.corpus):
            small = sample(corpus, args.passages, folder / f"{number}.jsonl")
            compare(model, small, Path(corpus).parent.name, args.repeats)
        if args.whole:
            whole_process(model, args.corpus[0], folder, args.whole)
    report(threads=torch.get_num_threads(), torch=torch.__version__, cpus=os.cpu_count())


if __name__ == "__main__":
    import logging
    import warnings

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    main()
