"""Gathers what is known about one question of a run: gold passages, ranking, truncation, BM25, training questions.

The query's embedding, the embeddings of the corpus and the texts are read; nothing is encoded and torch is not needed.
What cannot be had (no embeddings, bm25s not installed) is left out, with a line that says why.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dpr_lightning.data.sources import Source
from dpr_lightning.embeddings.shards import open_part, open_passages
from dpr_lightning.errors import UserError, check_choice, check_positive
from dpr_lightning.evaluation.accuracy import first_hit
from dpr_lightning.evaluation.answers import answer_finder, answer_problem
from dpr_lightning.evaluation.passages import passage_rows
from dpr_lightning.explanation.gold import Gold, Matcher, find_gold
from dpr_lightning.explanation.ranks import Place, best_rows, exact_places, place_among
from dpr_lightning.explanation.truncation import Cut, Lengths
from dpr_lightning.explanation.words import Neighbour, corpus_index, nearest_questions
from dpr_lightning.retrieval.methods import Inputs
from dpr_lightning.retrieval.provenance import check_against_embeddings, read_provenance
from dpr_lightning.retrieval.rankings import Ranking, read_rankings
from dpr_lightning.retrieval.retriever import Queries
from dpr_lightning.run_dir import METHODS, RunDir

_GOLD = 5  # gold passages that are looked at closely
_NEAREST = 3  # training questions


class Shown(NamedTuple):
    """A passage, and whether it contains an answer and is gold."""

    docid: str
    title: str
    text: str
    has_answer: bool
    is_gold: bool


@dataclass(frozen=True)
class GoldPassage:
    """A gold passage: its places in the ranking, in an exact search and in BM25, and how it is cut; None if unknown."""

    passage: Shown
    ranked: Place | None = None
    exact: Place | None = None
    bm25: Place | None = None
    cut: Cut | None = None
    is_answer_cut: bool = False  # the passage contains an answer, and the part that the model sees does not


@dataclass
class Explanation:
    """What is known about a question.

    Attributes:
        qid: Its id.
        question: Its text.
        answers: Its answers.
        rule: The rule by which answers match.
        run_file: The file of the ranking.
        made_by: How the ranking was made.
        first_hit: The rank of the first passage with an answer, or without answers of the first gold one; 0 for none.
        ranking: The number of ranked passages, and the score of the first and the last.
        passages: The number of passages in the corpus.
        top: The first passages of the ranking with their scores.
        gold: How gold passages were determined, and all of their rows.
        best_gold: The best-ranked gold passages.
        cut: How the question is cut.
        bm25_top: The first passages of BM25 with their scores.
        nearest: Training questions by BM25.
        missing: By part, why it is not known.
    """

    qid: str
    question: str
    answers: list[str]
    rule: str
    run_file: Path
    made_by: str
    first_hit: int
    ranking: Ranking
    passages: int
    top: list[tuple[float, Shown]]
    gold: Gold
    best_gold: list[GoldPassage]
    cut: Cut | None = None
    bm25_top: list[tuple[float, Shown]] = field(default_factory=list)
    nearest: list[Neighbour] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


class _Looked:
    """The corpus with the marks of one question."""

    def __init__(self, corpus: Source, matcher: Matcher, gold: Gold) -> None:
        self.corpus, self.matcher, self.gold_rows = corpus, matcher, set(gold.rows)

    def at(self, row: int) -> Shown:
        passage = self.corpus.rows[row]
        title, text = passage["title"], passage["text"]
        return Shown(passage["docid"], title, text, self.matcher.matches(title, text), row in self.gold_rows)


def explain(
    run: RunDir,
    qid: str,
    *,
    queries: Source,
    corpus: Source,
    train: Source | None = None,
    split: str = "test",
    method: str | None = None,
    format: str = "trec",
    run_file: Path | None = None,
    model: Path | None = None,
    qrels: Mapping[str, Mapping[str, int]] | None = None,
    gold: Sequence[str] = (),
    answers: str = "string",
    match_title: bool = False,
    depth: int = 5,
) -> Explanation:
    """Return what is known about a question of a run.

    Args:
        run: The run folder.
        qid: The id of the question.
        queries: The questions with their answers.
        corpus: The passages that were searched.
        train: The training questions; None if unknown.
        split: The name of the questions.
        method: The search method of the ranking.
        format: The format of the run folder's ranking, `trec` or `text`.
        run_file: A ranking; by default the run folder's.
        model: The folder of the model; by default the run's.
        qrels: The judged passages; None for none.
        gold: The docids of passages that should have been found.
        answers: The rule by which a passage contains an answer, `string` or `regex`.
        match_title: Search the title too.
        depth: The number of ranked passages to show.

    Raises:
        UserError: A question that does not exist, or files that are missing or do not belong together.
    """
    check_positive(depth, "depth")
    check_choice(method, "method", [None, *METHODS])
    number, row = _question(qid, queries, split)
    valid = [answer for answer in row["answers"] if not answer_problem(answer, rule=answers)]
    matcher = Matcher(answer_finder(valid, rule=answers, qid=qid), match_title)
    run_file = run_file or run.ranking(split, format, method)
    provenance = read_provenance(run_file)
    ranking = next(
        (one for one in read_rankings(run_file, queries) if one.qid == qid), Ranking(qid, [], np.empty(0, np.float32))
    )
    check_against_embeddings(run_file, provenance, tag=ranking.tag)
    judgments = (qrels.get(qid) or {}) if qrels is not None else None
    found = find_gold(corpus, matcher, named=gold, judgments=judgments, ranked=ranking.docids)
    looked = _Looked(corpus, matcher, found)
    row_of = passage_rows(ranking.docids, corpus, run_file=run_file)
    ranked = {row_of[docid]: Place(i + 1, float(ranking.scores[i])) for i, docid in enumerate(ranking.docids)}
    hits = [looked.at(row) for row in ranked]
    result = Explanation(
        qid=qid,
        question=row["query"],
        answers=row["answers"],
        rule=answers,
        run_file=run_file,
        made_by=provenance.index or "exact search" if provenance else f"of unknown origin, tagged {ranking.tag or '-'}",
        first_hit=first_hit([one.has_answer if row["answers"] else one.is_gold for one in hits]),
        ranking=ranking,
        passages=len(corpus.rows),
        top=list(zip(ranking.scores[:depth].tolist(), hits[:depth], strict=True)),
        gold=found,
        best_gold=[],
    )
    exact, rows = _exact(result, run, split, queries, corpus, number, found.rows, ranked)
    bm25 = _bm25(result, run, looked, rows)
    lengths = _lengths(result, model or run.model)
    for gold_row in rows:
        views = {"ranked": ranked.get(gold_row), "exact": exact.get(gold_row), "bm25": bm25.get(gold_row)}
        result.best_gold.append(_gold_passage(looked.at(gold_row), lengths, matcher, views))
    _nearest(result, train)
    return result


def _question(qid: str, queries: Source, split: str) -> tuple[int, dict[str, Any]]:
    """Return the row of a question, by number and content."""
    qids = queries.rows["query_id"][:]
    if qid not in qids:
        near = difflib.get_close_matches(qid, qids, n=3, cutoff=0.5)
        hint = f"Did you mean {', '.join(near)}?" if near else f"The first of them is {qids[0]}."
        raise UserError(f"qid: {qid} is not one of the {len(qids):,} questions of {split}. {hint}")
    number = qids.index(qid)
    return number, queries.rows[number]


def _exact(
    result: Explanation,
    run: RunDir,
    split: str,
    queries: Source,
    corpus: Source,
    number: int,
    gold: list[int],
    ranked: Mapping[int, Place],
) -> tuple[dict[int, Place], list[int]]:
    """Return the exact places of the best gold rows, and these rows, best first."""
    try:
        embedded, passages = open_part(run.query_embeddings(split), "query"), open_passages(run.passage_shards)
        Inputs(embedded, passages, queries, corpus)  # checks that they belong together
    except UserError as error:
        result.missing["exact ranks"] = str(error)
        last = len(ranked) + 1
        return {}, sorted(gold, key=lambda row: ranked[row].rank if row in ranked else last)[:_GOLD]
    query = embedded.at(np.array([number]))[0]
    rows = best_rows(query, passages, gold, _GOLD) if gold else []
    return exact_places(query, passages, rows), rows


def _bm25(result: Explanation, run: RunDir, looked: _Looked, rows: list[int]) -> dict[int, Place]:
    """Return the places in BM25 of those rows that share a word with the question, and note its first passages."""
    try:
        with corpus_index(run.index("bm25"), looked.corpus) as index:
            scores = index.scores(result.question)
            (best,) = index.search(Queries([""], texts=[result.question]), depth=min(3, index.rows))
            result.bm25_top = [(score, looked.at(row)) for row, score in _positive(best.rows, best.scores)]
            return {row: place_among(scores, row) for row in rows if scores[row] > 0}
    except UserError as error:
        result.missing["BM25"] = str(error).removeprefix("method: ")
        return {}


def _positive(rows: Any, scores: Any) -> Iterator[tuple[int, float]]:
    return ((row, score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True) if score > 0)


def _lengths(result: Explanation, model: Path) -> Lengths | None:
    """Return the tokenizer of a model, and note how it cuts the question."""
    try:
        lengths = Lengths(model)
    except UserError as error:
        result.missing["tokens"] = str(error)
        return None
    result.cut = lengths.query(result.question)
    return lengths


def _gold_passage(
    passage: Shown, lengths: Lengths | None, matcher: Matcher, views: Mapping[str, Place | None]
) -> GoldPassage:
    cut = lengths.passage(passage.title, passage.text) if lengths else None
    is_cut = bool(cut and cut.lost and passage.has_answer and not matcher.matches(passage.title, cut.seen))
    return GoldPassage(passage, cut=cut, is_answer_cut=is_cut, **views)


def _nearest(result: Explanation, train: Source | None) -> None:
    if train is None:
        result.missing["training questions"] = "the run names no training data. Give it with --train."
        return
    try:
        result.nearest = nearest_questions(train, result.question, _NEAREST)
    except UserError as error:
        result.missing["training questions"] = str(error).removeprefix("method: ")
