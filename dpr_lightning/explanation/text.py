"""An explanation as text of at most 80 columns."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from dpr_lightning.explanation.explain import Explanation, GoldPassage, Shown
from dpr_lightning.explanation.ranks import Place

_WIDTH = 80
_INDENT = 4
_GOLD_LINES = 4  # of the text of a gold passage
_MARKS = "A: has an answer, G: gold"


def explanation_text(one: Explanation) -> str:
    """Return the explanation for the terminal."""
    return "\n".join(line.rstrip() for line in _lines(one))


def _lines(one: Explanation) -> Iterator[str]:
    ranked = len(one.ranking.docids)
    yield from _wrapped(f"{one.qid}: {one.question}")
    if one.answers:
        yield from _wrapped(f"answers ({one.rule}): {' | '.join(one.answers)}")
    what = "an answer" if one.answers else "a gold passage"
    verdict = f"HIT at rank {one.first_hit:,}" if one.first_hit else f"MISS, {what} is in none"
    yield from _wrapped(f"{verdict} of {ranked:,} ranked passages ({one.run_file}, {one.made_by})")
    yield ""
    yield from _gold(one)
    yield ""
    yield f"RANKING, its first passages ({_MARKS})"
    yield from (_ranked_line(i, score, passage) for i, (score, passage) in enumerate(one.top, 1))
    if ranked > len(one.top):
        yield f"{ranked:>7,} {one.ranking.scores[-1]:>9.4f}  (the last one)"
    yield ""
    yield "BM25, its first passages"
    yield from (_ranked_line(i, score, passage) for i, (score, passage) in enumerate(one.bm25_top, 1))
    if "BM25" in one.missing:
        yield from _wrapped(one.missing["BM25"], _INDENT)
    elif not one.bm25_top:
        yield "    no passage shares a word with the question"
    yield ""
    yield from _nearest(one)
    yield ""
    yield "IN SHORT"
    for finding in findings(one):
        first, *rest = _wrapped(finding, _INDENT)
        yield f"  - {first[_INDENT:]}"
        yield from rest


def _gold(one: Explanation) -> Iterator[str]:
    count = len(one.gold.rows)
    shown = f", the best {len(one.best_gold)}" if count > len(one.best_gold) else ""
    yield from _wrapped(f"GOLD, {count:,} passage{'' if count == 1 else 's'}{shown}: {one.gold.how}")
    for docid in one.gold.absent:
        yield from _wrapped(f"{docid} is not in the corpus", _INDENT)
    if one.best_gold:
        yield f"{'ranked':>7} {'exact':>9} {'score':>9} {'BM25':>9} {'tokens':>9}  docid"
    for gold in one.best_gold:
        yield _gold_line(gold)
        passage = gold.passage
        text = f"{passage.title}: {passage.text}" if passage.title else passage.text
        yield from _wrapped(text, _INDENT, _GOLD_LINES)
    for part in ("exact ranks", "tokens"):
        if part in one.missing:
            yield from _wrapped(f"no {part}: {one.missing[part]}", _INDENT)
    if one.cut:
        lost = f", {one.cut.lost} of them cut off" if one.cut.lost else ""
        yield f"    the question has {one.cut.tokens} tokens of at most {one.cut.limit}{lost}"


def _gold_line(gold: GoldPassage) -> str:
    score = gold.exact or gold.ranked
    tokens = f"{gold.cut.tokens}" + (f" (-{gold.cut.lost})" if gold.cut.lost else "") if gold.cut else "-"
    cells = f"{_rank(gold.ranked):>7} {_rank(gold.exact):>9} {f'{score.score:.4f}' if score else '-':>9}"
    return _cut(f"{cells} {_rank(gold.bm25):>9} {tokens:>9}  {gold.passage.docid}")


def _rank(place: Place | None) -> str:
    return f"{place.rank:,}" if place else "-"


def _ranked_line(rank: int, score: float, passage: Shown) -> str:
    marks = ("A" if passage.has_answer else " ") + ("G" if passage.is_gold else " ")
    text = f"{passage.title}: {passage.text}" if passage.title else passage.text
    return _cut(f"{rank:>7,} {score:>9.4f} {marks} {passage.docid}  {text}")


def _nearest(one: Explanation) -> Iterator[str]:
    yield "TRAINING, the nearest questions by BM25 (score, id, question; then a positive)"
    if "training questions" in one.missing:
        yield from _wrapped(one.missing["training questions"], _INDENT)
    elif not one.nearest:
        yield "    no training question shares a word with it"
    gold = {row.passage.docid for row in one.best_gold}
    for row, score in one.nearest:
        yield _cut(f"{score:>7.2f} {row['query_id']}  {row['query']}")
        for passage in row["positives"][:1]:
            mark = "gold: " if passage["docid"] in gold else ""
            title = f"{passage['title']}: " if passage["title"] else ""
            yield _cut(f"        {mark}{passage['docid']}  {title}{passage['text']}")


def findings(one: Explanation) -> Iterator[str]:
    """Yield sentences on what may explain the rank of the best gold passage."""
    if one.first_hit:
        yield f"The question is a hit at every cutoff from {one.first_hit:,} on."
    if not one.gold.rows:
        yield "No gold passage is known, so nothing in the corpus may answer the question. Name one with --gold."
        return
    best, ranked = one.best_gold[0], len(one.ranking.docids)
    docid = best.passage.docid
    if best.exact and not best.ranked:
        if best.exact.rank <= ranked:
            yield (
                f"An exact search by embeddings ranks {docid} {best.exact.rank:,} of {one.passages:,}; this ranking, "
                f"by {one.made_by}, does not have it."
            )
        else:
            yield (
                f"{docid} ranks {best.exact.rank:,} of {one.passages:,} by embeddings, below the {ranked:,} that are "
                f"ranked: {best.exact.rank - 1:,} passages have embeddings nearer to the question's."
            )
    elif best.ranked and best.ranked.rank > 1:
        gap = float(one.ranking.scores[0]) - best.ranked.score
        yield f"{docid} ranks {best.ranked.rank:,}; its score is {gap:.4f} below that of the first passage."
    dense = best.exact or best.ranked
    if best.bm25 and dense and best.bm25.rank < dense.rank:
        yield f"BM25 ranks {docid} higher ({best.bm25.rank:,}): it shares words with the question; try method=hybrid."
    if one.answers and not any(gold.passage.has_answer for gold in one.best_gold):
        yield f"By the {one.rule} rule, {docid} does not contain an answer, so finding it would not count."
    if one.cut and one.cut.lost:
        yield "The end of the question is cut off. Raise model.query_max_length."
    for gold in one.best_gold:
        name, cut = gold.passage.docid, gold.cut
        if gold.is_answer_cut:
            yield f"The answer in {name} is in the part that is cut off. Raise model.passage_max_length."
        elif cut and cut.lost:
            yield f"The model does not see the last {cut.lost:,} of the {cut.tokens:,} tokens of {name}."


def _wrapped(text: str, indent: int = 0, lines: int | None = None) -> list[str]:
    """Return a text in lines of the width of the terminal, the last one of too many cut off."""
    console = Console(file=io.StringIO(), width=_WIDTH)
    wrapped = [str(line) for line in Text(" ".join(text.split())).wrap(console, _WIDTH - indent)]
    if lines is not None and len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], _cut(" ".join(wrapped[lines - 1 :]), _WIDTH - indent)]
    return [" " * indent + line for line in wrapped]


def _cut(line: str, width: int = _WIDTH) -> str:
    """Return a line that is cut to a number of columns, with an ellipsis."""
    text = Text(line.replace("\n", " "))
    text.truncate(width, overflow="ellipsis")
    return text.plain
