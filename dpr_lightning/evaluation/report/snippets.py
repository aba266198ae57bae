"""The questions and passages of a report as JSON values, compact: each text once, cut around the answers if long."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dpr_lightning.evaluation.answers import answer_spans
from dpr_lightning.evaluation.report.data import Passages, Ranked, ReportedEvaluation

_TEXT_BUDGET = 8_500_000  # bytes of all passage texts
_SHORTEST, _LONGEST = 80, 4000  # characters of a passage
_DIGITS = 5  # of a score
_CUT = "…"
Spans = list[int]  # start, end, start, end, …


def browser_data(names: Sequence[str], evaluations: Sequence[ReportedEvaluation], passages: Passages) -> dict[str, Any]:
    """Return what the browser of the questions reads.

    `questions` has a list `[qid, question, answers, relevant]` per question, where `relevant` maps docids to their rank
    in each run, or 0. `passages` has a list `[docid, title, text]` per passage. `runs` has for each run its name, the
    rank of each question's first hit (0 without one), and the passages of each question: `[row in passages, score]`,
    for a hit followed by its spans, which may be none. A rank comes fourth if it is not the place in the list; spans of
    a miss are then 0. Spans count characters of title, one separator and text.
    """
    snippets = Snippets(passages)
    questions = []
    for rows in zip(*(one.questions for one in evaluations), strict=True):
        relevant: dict[str, list[int]] = {}
        for docid in dict.fromkeys(docid for row in rows for docid in row.get("relevant", {})):
            relevant[docid] = [row.get("relevant", {}).get(docid) or 0 for row in rows]
        questions.append([rows[0]["qid"], rows[0].get("question", ""), rows[0].get("answers", []), relevant])
    runs = [
        {
            "name": name,
            "first": one.first_hits.tolist(),
            "ranked": [
                [_shown(place, ranked, row, one.metrics, snippets) for place, ranked in enumerate(ranking, 1)]
                for row, ranking in zip(one.questions, one.rankings, strict=True)
            ],
        }
        for name, one in zip(names, evaluations, strict=True)
    ]
    return {"questions": questions, "passages": snippets.entries, "runs": runs}


def script_json(value: Any) -> str:
    """Return a value as JSON that no HTML parser takes for markup inside a script element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


class Snippets:
    """The texts of passages, whole if all of them fit the budget, else cut to one length.

    Attributes:
        entries: `[docid, title, text]` of each text so far.
    """

    def __init__(self, passages: Passages) -> None:
        """Take the passages of the report."""
        self._texts = list(passages)
        characters = sum(len(text) for _, text in self._texts)
        size = sum(len(text.encode(errors="replace")) for _, text in self._texts)
        fitting = int(_TEXT_BUDGET * characters / max(size, 1) / max(len(self._texts), 1))
        self.limit = _LONGEST if size <= _TEXT_BUDGET else max(_SHORTEST, fitting)
        self.entries: list[list[str]] = []
        self._starts: dict[int, dict[int, int]] = {}  # passage -> start of a cut text -> entry

    def full_text(self, passage: int) -> str:
        """Return the full text of a passage, whose first line is the title."""
        return self._texts[passage][1]

    def cut(self, passage: int, spans: Sequence[tuple[int, int]]) -> tuple[int, Spans]:
        """Return the entry of a passage that shows the first span in its text, and the spans within the entry.

        Args:
            passage: The row of the passage.
            spans: Stretches of the full text, whose first line is the title.
        """
        docid, full = self._texts[passage]
        title, _, text = full.partition("\n")
        offset = len(title) + 1
        start, end = next(((a - offset, b - offset) for a, b in spans if a >= offset), (0, 0))
        starts = self._starts.setdefault(passage, {})
        shown = [one for one in starts if not spans or one <= start <= end <= one + self.limit]
        if shown:
            start = shown[0]
        else:
            start = _word_start(text, min(start - self.limit // 3, len(text) - self.limit)) if spans else 0
            starts[start] = len(self.entries)
            before, after = _CUT if start else "", _CUT if start + self.limit < len(text) else ""
            self.entries.append([docid, title, f"{before}{text[start : start + self.limit]}{after}"])
        shift = (len(_CUT) if start else 0) - start
        inside = [
            (a, b) if b < offset else (a + shift, min(b, offset + start + self.limit) + shift)
            for a, b in spans
            if b < offset or offset + start <= a < offset + start + self.limit
        ]
        return starts[start], [number for span in inside for number in span]


def _shown(
    place: int, ranked: Ranked, row: Mapping[str, Any], metrics: Mapping[str, Any], snippets: Snippets
) -> list[Any]:
    spans = _spans(snippets, ranked.passage, row, metrics) if ranked.is_hit else []
    entry, inside = snippets.cut(ranked.passage, spans)
    value: list[Any] = [entry, float(f"{ranked.score:.{_DIGITS}g}")]
    if ranked.is_hit or ranked.rank != place:
        value.append(inside if ranked.is_hit else 0)
    return [*value, ranked.rank] if ranked.rank != place else value


def _spans(
    snippets: Snippets, passage: int, row: Mapping[str, Any], metrics: Mapping[str, Any]
) -> list[tuple[int, int]]:
    """Return where the answers match in the text of a passage, by the rule that judged it."""
    title, _, text = snippets.full_text(passage).partition("\n")
    searched, offset = (f"{title} {text}", 0) if metrics["match_title"] else (text, len(title) + 1)
    spans = answer_spans(row.get("answers", []), searched, rule=metrics["answers"])
    return [(start + offset, end + offset) for start, end in spans]


def _word_start(text: str, start: int) -> int:
    """Return the start of the first word at or after an offset, or the offset if no word starts soon."""
    if start <= 0:
        return 0
    blank = text.find(" ", start - 1, start + 20)
    return start if blank < 0 else blank + 1
