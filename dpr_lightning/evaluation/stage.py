"""The evaluation stage: from a ranking, the questions' answers and the corpus to figures and per-question results."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dpr_lightning.data.sources import Source
from dpr_lightning.environment import environment
from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.accuracy import first_hit
from dpr_lightning.evaluation.against import compare_against, identify_against, open_against
from dpr_lightning.evaluation.checks import check_settings
from dpr_lightning.evaluation.evaluated import Evaluated
from dpr_lightning.evaluation.judged import judge, parse_measures, relevant_ranks
from dpr_lightning.evaluation.measures import Metrics, find_answers, measure_accuracy, measure_judged
from dpr_lightning.evaluation.output import read_questions, write_dpr_json, write_metrics, write_questions
from dpr_lightning.evaluation.passages import passage_rows, read_passages
from dpr_lightning.evaluation.qrels import qrels_fingerprint, read_qrels
from dpr_lightning.evaluation.stored import stored_evaluation
from dpr_lightning.files import atomic_folder, file_hash
from dpr_lightning.retrieval.provenance import check_against_embeddings, read_provenance
from dpr_lightning.retrieval.rankings import Ranking, read_rankings
from dpr_lightning.run_dir import RunDir

_log = logging.getLogger(__name__)
Rankings = dict[str, Ranking]


class Evaluation(NamedTuple):
    """The metrics as written to `metrics.json`, a line that says what was written, and the folder of the files."""

    metrics: Metrics
    summary: str
    folder: Path


def evaluate(
    run: RunDir,
    queries: Source,
    corpus: Source,
    *,
    split: str = "test",
    run_file: Path | str | None = None,
    method: str | None = None,
    format: str = "trec",
    answers: str = "string",
    match_title: bool = False,
    topk: Sequence[int] = (1, 5, 20, 100),
    qrels: Path | str | Sequence[str] | None = None,
    measures: Sequence[str] | None = None,
    against: Path | str | None = None,
    overwrite: bool = False,
    call: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Evaluate a ranking and write `metrics.json`, `questions.jsonl` and `dpr.json` into the run folder.

    A finished evaluation of the same files with the same settings is read and returned.

    Every question of `queries` counts; one that the ranking lacks is a miss. A figure that the ranking is not deep
    enough for is left out; `depth.py` has the rule.

    Args:
        run: The run folder.
        queries: Questions with their answers, as `open_queries` returns them.
        corpus: The passages, as `open_corpus` returns them.
        split: Name of the questions.
        run_file: A ranking in any of the formats that `read_rankings` takes; by default the run folder's ranking of
            the split.
        method: The search method whose ranking is evaluated; those that read texts have rankings of their own.
        format: Format of the run folder's ranking, `trec` or `text`.
        answers: Rule by which a passage contains an answer, `string` or `regex`; see `answers.py`.
        match_title: Search the title too. DPR and Pyserini search the text only.
        topk: Cutoffs of the accuracy.
        qrels: Files of judged passages; see `read_qrels`.
        measures: Measures of judged passages by their names in ir-measures, such as `nDCG@10`; by default Success@k,
            RR and nDCG@10.
        against: A run folder or the folder of an evaluation of the same questions, to compare with.
        overwrite: Evaluate again and replace finished output.
        call: What calls this, for the metrics' `provenance`: `command`, `log` (its log folder) and `seed`.

    Raises:
        UserError: An impossible setting; a ranking of other questions or passages, made from other embeddings than the
            run folder's, or too short for every cutoff; questions without answers; an evaluation of other questions to
            compare with.
    """
    start = time.perf_counter()
    cutoffs = check_settings(method=method, format=format, answers=answers, topk=topk, qrels=qrels, measures=measures)
    folder, run_file = run.evaluation(split, method), Path(run_file or run.ranking(split, format, method))
    other = open_against(Path(against), split, folder) if against is not None else None
    identity = identify_against(Path(against), other) if against is not None and other else None
    if folder.exists() and not overwrite:
        wanted = {
            "answers": answers,
            "match_title": match_title,
            "run_file_xxh3": file_hash(run_file) if run_file.is_file() else "of a ranking that is missing now",
            "corpus_fingerprint": corpus.fingerprint,
            "queries_fingerprint": queries.fingerprint,
            "qrels_fingerprint": qrels_fingerprint(read_qrels(qrels)) if qrels is not None else None,
            "against": identity and identity["run"],
            "against_xxh3": identity and identity["questions_xxh3"],
        }
        judged_by = [str(measure) for measure in parse_measures(measures, cutoffs)] if qrels is not None else []
        stored = stored_evaluation(folder, wanted, cutoffs=cutoffs, measures=judged_by)
        summary = f"{folder}: stored earlier, from the same files; overwrite=true evaluates again"
        return Evaluation(stored, summary, folder)
    rankings, facts = _open_rankings(run_file, queries, corpus)
    judged = read_qrels(qrels) if qrels is not None else None
    has_answers = _check_answers(queries, needed=qrels is None)
    docids = (docid for ranking in rankings.values() for docid in ranking.docids[: cutoffs[-1]])
    passages = read_passages(passage_rows(docids, corpus, run_file=run_file), corpus)
    hits, invalid_answers = find_answers(rankings, queries, passages, answers, match_title, cutoffs[-1])
    first_hits = np.array([first_hit(of_one) for of_one in hits], np.int64)
    metrics: Metrics = {
        "questions": len(hits),
        "missing": len(hits) - len(rankings),
        "without_answers": 0 if has_answers else len(hits),
        "skipped": queries.skipped,
        "invalid_answers": {"count": len(invalid_answers), "first": invalid_answers[:10]},
        "accuracy": {},
        "interval": {},
        "undecided": {},
        "left_out": {},
        "answers": answers,
        "match_title": match_title,
        "split": split,
        "run_file": str(run_file),
        **facts,
    }
    if has_answers:
        measure_accuracy(metrics, queries, rankings, first_hits, cutoffs, len(corpus.rows))
    judgement = None
    if judged is not None:
        qids, rows = queries.rows["query_id"], len(corpus.rows)
        judgement = judge(judged, rankings, qids=qids, topk=cutoffs, corpus_rows=rows, measures=measures)
        measure_judged(metrics, judgement, qrels_fingerprint(judged))
        metrics["measures"] = [str(measure) for measure in parse_measures(measures, cutoffs)]
    elif not metrics["accuracy"]:
        raise UserError(
            f"topk: {run_file} ranks {metrics['depth']} passages per question, too few for {cutoffs}. "
            "Search deeper (`depth`), or set `topk` to smaller cutoffs."
        )
    with atomic_folder(folder) as temporary:
        by_question = (judgement.by_question, relevant_ranks(judged, rankings)) if judgement and judged else ()
        write_questions(temporary, queries, rankings, first_hits, *by_question)
        if other and identity:
            own = Evaluated(folder, metrics, {row["qid"]: row for row in read_questions(temporary)})
            metrics["against"] = {**identity, **compare_against(own, other)}
        write_dpr_json(temporary, queries, rankings, passages, hits)
        seconds = time.perf_counter() - start
        metrics["provenance"] = _provenance(run, call or {}, seconds)
        metrics = write_metrics(temporary, metrics)
    speed = f"{len(hits):,} questions in {seconds:,.1f} s"
    return Evaluation(metrics, f"{folder}: metrics.json, questions.jsonl, dpr.json; {speed}", folder)


def _provenance(run: RunDir, call: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return how metrics were computed; a function that no command has called knows no command, log folder and seed."""
    log = run.relative(Path(call["log"])) if call.get("log") else None
    known = {"command": call.get("command"), "log": log, "seed": call.get("seed")}
    return {**known, **environment(), "seconds": round(seconds, 3)}


def _open_rankings(run_file: Path, queries: Source, corpus: Source) -> tuple[Rankings, Metrics]:
    """Return the rankings by question, after checking their origin, and what identifies them."""
    rankings = {ranking.qid: ranking for ranking in read_rankings(run_file, queries)}
    qids = set(queries.rows["query_id"])
    unknown = [qid for qid in rankings if qid not in qids]
    if unknown:
        raise UserError(
            f"{run_file}: question {unknown[0]} (the first of {len(unknown):,}) is not in `queries`. "
            "Evaluate with the questions that were searched (`split`)."
        )
    provenance = read_provenance(run_file)
    check_against_embeddings(run_file, provenance, tag=next(iter(rankings.values())).tag)
    if provenance and provenance.passages != corpus.fingerprint:
        raise UserError(f"corpus: its passages are not those that {run_file} was made from. Give the searched corpus.")
    if provenance and provenance.queries != queries.fingerprint:
        _log.warning("%s: the questions or answers have changed since these were searched", run_file)
    depth = max(len(ranking.docids) for ranking in rankings.values())
    if provenance and provenance.depth is not None and provenance.depth < depth:
        depth = provenance.depth
        _log.warning("%s: ranks beyond %d are ignored, because its shards were searched no deeper", run_file, depth)
        rankings = {
            qid: ranking._replace(docids=ranking.docids[:depth], scores=ranking.scores[:depth])
            for qid, ranking in rankings.items()
        }
    facts = {
        "run_file_xxh3": file_hash(run_file),
        "depth": depth,
        "model_fingerprint": provenance.model if provenance else None,
        "corpus_fingerprint": corpus.fingerprint,
        "queries_fingerprint": queries.fingerprint,
    }
    return rankings, facts


def _check_answers(queries: Source, *, needed: bool) -> bool:
    """Return whether the questions have answers; raise UserError if some lack them, or all, but they are needed."""
    rows = queries.rows.select_columns(["query_id", "answers"])
    without = [row["query_id"] for row in rows if not row["answers"]]
    if without and (needed or len(without) < len(rows)):
        raise UserError(
            f"queries: question {without[0]} (the first of {len(without):,}) has no answers. "
            "Add them; for judged passages only, give `qrels` and no answers at all."
        )
    return not without
