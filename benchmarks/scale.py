"""Measure what each stage takes in time, memory and disk as the corpus grows, with a tiny model and made-up passages.

    OMP_NUM_THREADS=1 python benchmarks/scale.py [--passages 100000] [--shards 20] [--queries 2000] [--depth 1000]
        [--folder FOLDER]

Prints JSON lines, one per stage, in the order of the stages. Each stage is a command in a process of its own, with an
empty cache of converted data at first. `peak_mb` is the peak of its resident memory, mapped pages of files included;
`own_mb` is the peak without these pages, which the system takes back when it needs them. Both are sampled every 20 ms.
`written_mb` is what the run folder and the cache grow by. "again" is a command whose output exists already, which is
its start-up. The merged ranking and that of the whole corpus must have the same bytes.

Passages have 100 words of five letters, one token each; the model has one layer of 32 units. FOLDER keeps data and
results; by default they are deleted.
"""

import argparse
import contextlib
import filecmp
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import report

ROOT = Path(__file__).resolve().parent.parent
WORDS = [f"{a}{b}{c}{d}{e}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst" for d in "aeiou" for e in "nst"]
EVERY_S = 0.02


def write_data(folder, passages, queries):
    """Write a corpus, and questions of eight words in a row, which are answered by three of these words."""
    draw = random.Random(0)
    asked = set(draw.sample(range(passages), queries))
    with (folder / "corpus.jsonl").open("w") as corpus, (folder / "test.jsonl").open("w") as test:
        for row in range(passages):
            words = draw.choices(WORDS, k=100)
            passage = {"docid": f"d{row}", "title": "", "text": " ".join(words)}
            corpus.write(json.dumps(passage) + "\n")
            if row in asked:
                question = {"query_id": f"q{row}", "query": " ".join(words[:8]), "answers": [" ".join(words[2:5])]}
                test.write(json.dumps(question) + "\n")


def write_model(folder):
    """Write a BERT with random weights and a vocabulary of the made-up words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(vocabulary), initializer_range=0.2, **sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)


def settings(folder, shards, depth):
    """Return the words that point a command at the data, the model and the run."""
    return [
        "data=files",
        f"data.corpus={folder}/corpus.jsonl",
        f"data.queries.test={folder}/test.jsonl",
        f"model.name_or_path={folder}/model",
        f"model_dir={folder}/model",
        f"run_dir={folder}/run",
        f"num_shards={shards}",
        f"depth={depth}",
        "encode.precision=32",
    ]


def measure(words, folder, grows=()):
    """Run a command in a folder and return its wall and CPU seconds, its memory, and the growth of other folders."""
    before, start = size_of(grows), time.perf_counter()
    with (folder / "output.txt").open("a") as output:
        process = subprocess.Popen([sys.executable, *words], cwd=folder, stdout=output, stderr=output)
    peak = own = 0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        with contextlib.suppress(OSError, TypeError):  # the process has ended meanwhile
            state = Path(f"/proc/{process.pid}/status").read_text()
            peak, own = max(peak, kilobytes(state, "VmHWM")), max(own, kilobytes(state, "RssAnon"))
        time.sleep(EVERY_S)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed; its output is at the end of {folder / 'output.txt'}")
    return {
        "wall_s": seconds,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": peak / 1024,
        "own_mb": own / 1024,
        "written_mb": (size_of(grows) - before) / (1 << 20),
    }


def kilobytes(state, field):
    return int(re.search(rf"{field}:\s+(\d+)", state)[1])


def size_of(folders):
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


def stages(folder, common):
    """Yield the name of each stage and its words after `python`; go on when the stage is finished."""
    ranking, corpus = folder / "run/rankings/test.trec", folder / "corpus.jsonl"
    for name, script, *more in (
        ("convert the data", "scripts/prepare.py"),
        ("encode one shard", "encode.py", "shard=0"),
        ("encode the other shards", "encode.py"),
        ("encode, again", "encode.py"),
        ("encode the queries", "encode.py", "side=query"),
        ("search each shard", "search.py", "shard=all"),
        ("reduce", "reduce.py"),
        ("search all shards at once", "search.py", "overwrite=true"),
        ("evaluate", "evaluate.py"),
        ("evaluate, again", "evaluate.py"),
    ):
        yield name, [str(ROOT / script), *common, *more]
        if name == "reduce":
            shutil.copy(ranking, folder / "merged.trec")
    if not filecmp.cmp(ranking, folder / "merged.trec", shallow=False):
        raise SystemExit("the merged ranking differs from that of the whole corpus")
    question = " ".join(WORDS[:8])
    words = [f"{folder}/run", question, "--corpus", str(corpus), "--model", f"{folder}/model"]
    yield "ask one question", [str(ROOT / "scripts/ask.py"), *words]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--depth", type=int, default=1000)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": f"{folder}/cache", "PYTHONPATH": str(ROOT)}
        write_data(folder, args.passages, args.queries)
        write_model(folder / "model")
        report(passages=args.passages, corpus_mb=size_of([folder]) / (1 << 20))
        for name, words in stages(folder, settings(folder, args.shards, args.depth)):
            report(passages=args.passages, stage=name, **measure(words, folder, [folder / "run", folder / "cache"]))
    report(shards=args.shards, queries=args.queries, depth=args.depth, cpus=os.cpu_count(), load=os.getloadavg()[0])


if __name__ == "__main__":
    main()
