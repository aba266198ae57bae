"""Measure passages per second of encode.precision=int8 and others on a CPU (see docs/encode.md).

    python benchmarks/int8.py --corpus FILE [--model FOLDER] [--passages 128] [--precisions 32 int8]

Prints JSON lines. The precisions take turns over the same passages; a ratio is the median over the turns, relative to
the first precision. With `ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2` in the
environment, torch computes as on a CPU without AVX-512.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from common import over_turns, quiet, report, report_ratio, take_turns, timed

from dpr_lightning.data.sources import open_corpus
from dpr_lightning.encoding.stage import ShardEncoder
from dpr_lightning.model.bi_encoder import load_bi_encoder


def engine(bi_encoder, source, precision, passages):
    """Return a function that encodes part of a corpus, file included, and returns its seconds."""
    encoder = ShardEncoder(bi_encoder, source, side="passage", precision=precision, overwrite=True)
    num_shards = len(source.rows) // passages

    def run():
        with tempfile.TemporaryDirectory() as folder:
            return timed(lambda: encoder.encode(Path(folder) / "0.safetensors", num_shards=num_shards))[0]

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="data/quickstart/corpus.jsonl.gz")
    parser.add_argument("--model", default="data/quickstart/encoder")
    parser.add_argument("--passages", type=int, default=128)
    parser.add_argument("--precisions", nargs="+", default=["32", "int8"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    quiet()
    bi_encoder, source = load_bi_encoder(args.model), open_corpus(args.corpus)
    runs = {precision: engine(bi_encoder, source, precision, args.passages) for precision in args.precisions}
    cpu = torch.backends.cpu.get_cpu_capability()
    for threads in args.threads:
        torch.set_num_threads(threads)
        turns = take_turns(runs, args.repeats + 1)
        turns = {precision: took[1:] for precision, took in turns.items()}  # the first fills caches
        passages = len(source.rows) // (len(source.rows) // args.passages)
        for precision, took in turns.items():
            speeds = over_turns("passages_per_s", [passages / one for one in took])
            report(precision=precision, threads=threads, cpu=cpu, passages=passages, **speeds)
        first, *others = args.precisions
        for other in others:
            report_ratio(f"{other} / {first}, passages/s", turns[first], turns[other], threads=threads, cpu=cpu)


if __name__ == "__main__":
    main()
