"""The evaluation stage: a ranking, the questions' answers and the corpus text in, accuracy and per-question output."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dpr_lightning.data.sources import Source
from dpr_lightning.errors import UserError, check_positive
from dpr_lightning.evaluation.accuracy import FirstHits, accuracy_at, first_hit
from dpr_lightning.evaluation.answers import answer_finder
from dpr_lightning.evaluation.passages import Passages, passage_rows, read_passages
from dpr_lightning.evaluation.qrels import judged_measures, read_qrels
from dpr_lightning.files import atomic_folder, atomic_write, refuse_overwrite, write_json
from dpr_lightning.retrieval.rankings import Ranking, read_rankings


class Evaluation(NamedTuple):
    """The metrics as written to `metrics.json`, and a line that says what was written."""

    metrics: dict[str, Any]
    summary: str


def evaluate(
    run_file: Path,
    queries: Source,
    corpus: Source,
    folder: Path,
    *,
    answers: str = "string",
    match_title: bool = False,
    topk: Sequence[int] = (1, 5, 20, 100),
    qrels_file: Path | None = None,
    overwrite: bool = False,
) -> Evaluation:
    """Writes `metrics.json`, `questions.jsonl` and `dpr.json` into `folder`.

    Every question of `queries` counts; one that the ranking lacks is a miss.

    Args:
        run_file: TREC run or Tevatron text.
        queries: questions with their answers, as `open_queries` gives them.
        corpus: the passages, as `open_corpus` gives them.
        folder: for the output.
        answers: `string` or `regex`; see `answers.py`.
        match_title: look for answers in the title too; DPR and Pyserini look in the text only.
        topk: cutoffs of the accuracy.
        qrels_file: judged passages, for Success@k, RR and nDCG@10.
        overwrite: replace finished output.

    Raises:
        UserError: the ranking names a question or passage that is not there, no answers, a bad answer or setting.
    """
    if not isinstance(topk, Sequence) or not topk:
        raise UserError(f"topk: {topk!r} is no list of cutoffs. Set it like topk=[1,5,20].")
    for k in topk:
        check_positive(k, "topk")
    refuse_overwrite(folder, overwrite)
    start = time.perf_counter()
    rankings = {ranking.qid: ranking for ranking in read_rankings(run_file)}
    _check_questions(run_file, rankings, queries, need_answers=qrels_file is None)
    docids = (docid for ranking in rankings.values() for docid in ranking.docids[: max(topk)])
    passages = read_passages(passage_rows(docids, corpus, run_file=run_file), corpus)
    hits = _find_answers(rankings, queries, passages, answers, match_title, max(topk))
    first_hits = np.array([first_hit(found) for found in hits], np.int64)
    metrics: dict[str, Any] = {
        "questions": len(hits),
        "missing": len(hits) - len(rankings),
        "accuracy": {},
        "interval": {},
        "answers": answers,
        "match_title": match_title,
        "run_file": str(run_file),
    }
    if hits and any(queries.rows["answers"]):
        for k in sorted(topk):
            value, low, high = accuracy_at(first_hits, k)
            metrics["accuracy"][str(k)], metrics["interval"][str(k)] = value, [low, high]
    if qrels_file is not None:
        ranked = {qid: ranking.docids for qid, ranking in rankings.items()}
        metrics["qrels"] = judged_measures(
            read_qrels(qrels_file), ranked, qids=queries.rows["query_id"], topk=sorted(topk)
        )
    with atomic_folder(folder) as temporary:
        write_json(temporary / "metrics.json", metrics)
        _write_questions(temporary / "questions.jsonl", queries, rankings, first_hits)
        _write_dpr_json(temporary / "dpr.json", queries, rankings, passages, hits)
    speed = f"{len(hits):,} questions in {time.perf_counter() - start:,.1f} s"
    return Evaluation(metrics, f"{folder}: metrics.json, questions.jsonl, dpr.json; {speed}")


def read_first_hits(folder: Path) -> tuple[list[str], FirstHits]:
    """Question ids and first hits of an evaluation's `questions.jsonl`."""
    file = folder / "questions.jsonl"
    if not file.exists():
        raise UserError(f"{file} is not there. Run evaluate.py for this run folder and split first.")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [row["qid"] for row in rows], np.array([row["first_hit"] or 0 for row in rows], np.int64)


def _check_questions(run_file: Path, rankings: Mapping[str, Ranking], queries: Source, *, need_answers: bool) -> None:
    known = set(queries.rows["query_id"])
    unknown = [qid for qid in rankings if qid not in known]
    if unknown:
        raise UserError(
            f"{run_file}: question {unknown[0]} ({len(unknown):,} in all) is not in data.queries. "
            "Evaluate with the questions that were searched (split=…)."
        )
    without = [row["query_id"] for row in queries.rows.select_columns(["query_id", "answers"]) if not row["answers"]]
    if without and (need_answers or len(without) < len(known)):
        raise UserError(
            f"data.queries: question {without[0]} ({len(without):,} in all) has no answers. "
            "Add them; for judged passages only, give data.qrels and no answers at all."
        )


def _find_answers(
    rankings: Mapping[str, Ranking], queries: Source, passages: Passages, rule: str, match_title: bool, depth: int
) -> list[list[bool]]:
    """For each question, in the order of `queries`, whether each of its first `depth` passages holds an answer."""
    hits = []
    for row in queries.rows:
        has_answer = answer_finder(row["answers"], rule=rule, qid=row["query_id"])
        docids = rankings[row["query_id"]].docids[:depth] if row["query_id"] in rankings else []
        hits.append([has_answer(_searched(passages[docid], match_title)) for docid in docids])
    return hits


def _searched(passage: tuple[str, str], match_title: bool) -> str:
    title, text = passage
    return f"{title} {text}" if match_title else text


def _write_questions(path: Path, queries: Source, rankings: Mapping[str, Ranking], first_hits: FirstHits) -> None:
    with atomic_write(path) as file:
        for row, rank in zip(queries.rows, first_hits.tolist(), strict=True):
            line = {
                "qid": row["query_id"],
                "question": row["query"],
                "answers": row["answers"],
                "first_hit": rank or None,
            }
            line["docid"] = rankings[row["query_id"]].docids[rank - 1] if rank else None
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _write_dpr_json(
    path: Path, queries: Source, rankings: Mapping[str, Ranking], passages: Passages, hits: list[list[bool]]
) -> None:
    """The form that Pyserini's `evaluate_dpr_retrieval` reads; a question without ranking has no contexts.

    The text is two lines, title and passage, as that program cuts it there.
    """
    with atomic_write(path) as file:
        file.write("{")
        for place, (row, found) in enumerate(zip(queries.rows, hits, strict=True)):
            ranking = rankings.get(row["query_id"])
            contexts = (
                [
                    {
                        "docid": docid,
                        "score": str(score),
                        "text": _two_lines(*passages[docid]),
                        "has_answer": has_answer,
                    }
                    for docid, score, has_answer in zip(ranking.docids, ranking.scores, found, strict=False)
                ]
                if ranking
                else []
            )
            entry = {"question": row["query"], "answers": row["answers"], "contexts": contexts}
            file.write(
                f"{',' if place else ''}\n{json.dumps(row['query_id'])}: {json.dumps(entry, ensure_ascii=False)}"
            )
        file.write("\n}\n")


def _two_lines(title: str, text: str) -> str:
    return "\n".join(part.replace("\n", " ") for part in (title, text))
