"""Measure how many rows per second the conversion of each layout reads, checks and writes.

    python benchmarks/convert.py [--rows 200000] [--repeats 3]

Prints JSON lines, one per layout, with the rows per second of wall time and of CPU time over all processes. The files
are written by this script: passages of 100 words, questions with an answer, a positive and a negative passage. The
layouts take turns; the figure is the median over the turns.
"""

import argparse
import gzip
import json
import os
import random
import tempfile
import time
from pathlib import Path

import datasets
from common import over_turns, quiet, report, take_turns

from dpr_lightning.data.sources import open_corpus, open_queries, open_training

WORDS = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "prstvz"]


def texts(rows):
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=100)) for _ in range(rows)]


def json_lines(path, records):
    opening = gzip.open if path.suffix == ".gz" else open
    with opening(path, "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return path


def lines(path, rows):
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


def write_files(folder, rows):
    """Write a file of each layout, and return what opens it by its name."""
    body = texts(rows)
    title = [text[:20] for text in body]
    passages = [{"docid": f"{n}", "title": title[n], "text": body[n]} for n in range(rows)]
    few = range(rows // 10)
    question = [{"question": title[n], "answers": [title[n][:5]]} for n in few]
    training = [
        {
            "query_id": f"{n}",
            "query": title[n],
            "answers": [title[n][:5]],
            "positive_passages": [passages[n]],
            "negative_passages": passages[n + 1 : n + 3],
        }
        for n in few
    ]
    contexts = [
        {**question[n], "positive_ctxs": [passages[n]], "hard_negative_ctxs": passages[n + 1 : n + 3]} for n in few
    ]
    pairs = [{"anchor": title[n], "positive": body[n], "negative": body[n + 1]} for n in few]
    corpora = {
        "tevatron .jsonl": json_lines(folder / "t.jsonl", passages),
        "tevatron .jsonl.gz": json_lines(folder / "t.jsonl.gz", passages),
        "beir .jsonl": json_lines(folder / "b.jsonl", [{"_id": p["docid"], **p} for p in passages]),
        "pyserini .jsonl": json_lines(
            folder / "p.jsonl", [{"id": p["docid"], "contents": f"{p['title']}\n{p['text']}"} for p in passages]
        ),
        "fair_dpr .tsv": lines(
            folder / "psgs.tsv",
            [("id", "text", "title"), *((p["docid"], f'"{p["text"]}"', p["title"]) for p in passages)],
        ),
        "msmarco .tsv": lines(folder / "collection.tsv", [(p["docid"], p["text"]) for p in passages]),
    }
    datasets.Dataset.from_list(passages).to_parquet(folder / "t.parquet")
    corpora["tevatron .parquet"] = folder / "t.parquet"
    queries = {"fair_dpr queries .jsonl": json_lines(folder / "q.jsonl", question)}
    trainings = {
        "tevatron training .jsonl": json_lines(folder / "train.jsonl", training),
        "fair_dpr training .jsonl": json_lines(folder / "biencoder.jsonl", contexts),
        "sentence_transformers training .jsonl": json_lines(folder / "pairs.jsonl", pairs),
    }
    kinds = ((corpora, open_corpus), (queries, open_queries), (trainings, open_training))
    return {name: (opening, file) for files, opening in kinds for name, file in files.items()}


def convert(opening, file):
    """Return the rows per second of wall time and of CPU time; the cache is new."""
    with tempfile.TemporaryDirectory() as cache:
        datasets.config.HF_DATASETS_CACHE = Path(cache)
        start, cpu = time.perf_counter(), sum(os.times()[:4])
        rows = len(opening(str(file)).rows)
        return rows / (time.perf_counter() - start), rows / (sum(os.times()[:4]) - cpu)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), args.rows)
        turns = take_turns({name: lambda one=one: convert(*one) for name, one in files.items()}, args.repeats)
        for name, speeds in turns.items():
            wall, cpu = zip(*speeds, strict=True)
            size = files[name][1].stat().st_size / (1 << 20)
            report(
                layout=name, mb=size, **over_turns("rows_per_s", list(wall)), rows_per_cpu_s=sorted(cpu)[len(cpu) // 2]
            )
    report(cpus=os.cpu_count(), datasets=datasets.__version__)


if __name__ == "__main__":
    main()
