"""Measure fine-tuning on all questions of the quickstart, each by an encoder that was not trained on it.

    python examples/quickstart/folds.py [--folds 3] [--run-dir runs/folds]

The 241 test questions give wide intervals. Here, the questions of all splits are divided into folds, and questions that
share a target are in one fold. For each fold, the published encoder is trained on the other folds as in `run.sh`
(round 1: negatives from BM25) and ranks the passages for the questions of the fold. The last line of output compares
the rankings of all questions with those of the published encoder. Run `run.sh` first, which writes the data. A rerun
continues where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from build import Bm25, Question, question_row, read_questions, training_row, write_jsonl, write_lines
from stdlib_corpus import build_corpus

ROOT = Path(__file__).resolve().parents[2]
ENCODER = "data/quickstart/encoder"


def main() -> None:
    """Write the folds, train and rank on each, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/folds"))
    args = parser.parse_args()
    corpus = build_corpus()
    questions = [question for of_split in read_questions(corpus)[0].values() for question in of_split]
    folds = divide(questions, args.folds)
    bm25, files = Bm25(corpus), []
    for i, fold in enumerate(folds):
        run = args.run_dir / f"fold-{i}"
        run.mkdir(parents=True, exist_ok=True)
        others = [question for other in folds if other is not fold for question in other]
        write_jsonl(run / "train.jsonl.gz", (training_row(question, bm25) for question in others))
        write_jsonl(run / "test.jsonl.gz", map(question_row, fold))
        data = [f"data.train={run}/train.jsonl.gz", "data.dev=null", f"data.queries.test={run}/test.jsonl.gz"]
        command("train", run, *data, "model.query_max_length=32", "skip_finished=true")
        rank(run, *data)
        files.append(run / "rankings" / "test.trec")
    everything = args.run_dir / "all.jsonl.gz"
    write_jsonl(everything, (question_row(question) for fold in folds for question in fold))
    published, trained = args.run_dir / "published", args.run_dir / "trained"
    options = [f"data.queries.test={everything}", f"model_dir={ENCODER}", "model.passage_max_length=256"]
    rank(published, *options)
    trained.mkdir(exist_ok=True)
    write_lines(trained / "test.trec", (line for file in files for line in file.read_text().splitlines()))
    for run, ranking in ((published, published / "rankings" / "test.trec"), (trained, trained / "test.trec")):
        command("evaluate", run, options[0], "data.qrels.test=null", f"run_file={ranking}", "overwrite=true")
    subprocess.run([sys.executable, ROOT / "scripts" / "compare.py", published, trained], check=True)


def divide(questions: Sequence[Question], count: int) -> list[list[Question]]:
    """Divide questions into folds of about one size; those that share a target stay together."""
    groups: list[tuple[set[str], list[Question]]] = []
    for question in questions:
        targets, members = {target["docid"] for target in question.targets}, [question]
        for group in [group for group in groups if group[0] & targets]:
            groups.remove(group)
            targets, members = targets | group[0], group[1] + members
        groups.append((targets, members))
    folds: list[list[Question]] = [[] for _ in range(count)]
    for _, members in sorted(groups, key=lambda group: hashlib.sha256(group[1][0].text.encode()).digest()):
        min(folds, key=len).extend(members)
    return folds


def rank(run: Path, *options: str) -> None:
    """Encode passages and questions, and search."""
    command("encode", run, *options, "skip_finished=true")
    command("encode", run, *options, "side=query", "skip_finished=true")
    command("search", run, *options, "overwrite=true")


def command(name: str, run: Path, *options: str) -> None:
    """Run a command of the project on the quickstart's data."""
    words = [sys.executable, f"{name}.py", "experiment=quickstart", f"run_dir={run}", *options]
    subprocess.run(words, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
