"""The charts of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpr_lightning.charts import Bars, Lines
from dpr_lightning.evaluation.accuracy import FirstHits
from dpr_lightning.evaluation.report.data import Passages, ReportedEvaluation
from dpr_lightning.evaluation.report.lengths import Counter, Lengths
from dpr_lightning.training_curves import METRICS_CSV, training_panels

_RANKS = (1, 2, 5, 10, 20, 50, 100, 1000)  # last ranks of the bars of first hits
_BINS = 30
_SHOWN_LENGTHS = 0.995  # share of the texts that a histogram of lengths shows


class Figure(NamedTuple):
    """A chart with its title and a sentence below it."""

    title: str
    panel: Lines | Bars
    caption: str = ""


def describe_hit(evaluation: ReportedEvaluation) -> str:
    """Return what a passage that counts as a hit is or does, as in "a passage that …"."""
    return "contains an answer" if evaluation.has_answers else "is judged relevant"


def accuracy_curves(hits: Mapping[str, FirstHits], most: int, measure: str = "accuracy") -> Lines:
    """Return the accuracy@k of each system over all cutoffs k up to `most`."""
    lines = {}
    for name, first_hits in hits.items():
        at_rank = np.bincount(first_hits[(first_hits > 0) & (first_hits <= most)], minlength=most + 1)
        lines[name] = (list(range(1, most + 1)), (at_rank.cumsum()[1:] / len(first_hits)).tolist())
    least = min((values[0] for _, values in lines.values()), default=0.0)
    return Lines(lines, x="k", y=f"{measure}@k", is_log=True, limits=(max(0.0, least - 0.05) // 0.1 / 10, 1.0))


def figures(names: Sequence[str], evaluations: Sequence[ReportedEvaluation], passages: Passages) -> Iterator[Figure]:
    """Yield the charts that the evaluations have data for."""
    first = evaluations[0]
    hits = {name: one.first_hits for name, one in zip(names, evaluations, strict=True)}
    most = min(int(one.metrics.get("depth", 0)) or _deepest(one) for one in evaluations)
    most = min([most, *(max(map(int, one.metrics["accuracy"])) for one in evaluations if one.has_answers)])
    share = f"Share of questions with a hit: a passage that {describe_hit(first)}."
    if any(own.any() for own in hits.values()):
        measure = "accuracy" if first.has_answers else "success"
        title = f"{measure.capitalize()} at every cutoff"
        yield Figure(title, accuracy_curves(hits, most, measure), share)
        yield Figure("Rank of the first hit", _rank_bars(hits, most), f"None: no hit among the first {most:,}.")
    for name, one in zip(names, evaluations, strict=True):
        if panel := _score_panel(one):
            of = f" of {name}" if len(names) > 1 else ""
            yield Figure(f"Score at rank 1{of}", panel, "Of questions whose first passage is a hit or a miss.")
    count = Counter(next((one.run.model for one in evaluations if one.model_is_known and one.run), None))
    yield _length_figure("questions", count.questions([row.get("question", "") for row in first.questions]))
    if len(passages):
        lengths = count.passages([text for _, text in passages])
        of = f" Of {len(lengths.values):,} passages in this report, title included."
        yield _length_figure("passages", lengths, of)
    yield from _training(names, evaluations)


def _training(names: Sequence[str], evaluations: Sequence[ReportedEvaluation]) -> Iterator[Figure]:
    """Yield the curves of the trainings whose models were evaluated, once for each run folder."""
    seen = set()
    for name, one in zip(names, evaluations, strict=True):
        if one.run is None or not one.model_is_known or one.run in seen:
            continue
        seen.add(one.run)
        if (file := one.run.train / METRICS_CSV).is_file():
            of = f" of {name}" if len(names) > 1 else ""
            for panel in training_panels(file):
                yield Figure(f"Training{of}: {' and '.join(panel.names)}", panel)


def _rank_bars(hits: Mapping[str, FirstHits], most: int) -> Bars:
    ends = [*(rank for rank in _RANKS if rank < most), most]
    starts = [1, *(end + 1 for end in ends[:-1])]
    labels = [str(end) if start == end else f"{start}–{end}" for start, end in zip(starts, ends, strict=True)]
    bars = {}
    for name, own in hits.items():
        counts = [int(((own >= start) & (own <= end)).sum()) for start, end in zip(starts, ends, strict=True)]
        bars[name] = [*counts, len(own) - sum(counts)]
    return Bars([*labels, "none"], bars, x="rank", y="questions")


def _score_panel(one: ReportedEvaluation) -> Lines | None:
    scored = np.isfinite(one.top_scores)
    if not scored.any():
        return None
    edges = np.histogram_bin_edges(one.top_scores[scored], _BINS)
    parts = {"hit": scored & (one.first_hits == 1), "miss": scored & (one.first_hits != 1)}
    lines = {name: _steps(one.top_scores[part], edges) for name, part in parts.items()}
    return Lines(lines, x="score", y="questions", is_filled=True)


def _length_figure(what: str, lengths: Lengths, of: str = "") -> Figure:
    values, unit = np.array(lengths.values, float), lengths.unit
    last = max(int(np.quantile(values, _SHOWN_LENGTHS)), 2)
    width = max(1, round(last / 40))
    edges = np.arange(0.5, last + width + 0.5, width)
    panel = Lines({what: _steps(values, edges)}, x=unit, y=what, is_filled=True, is_whole=True)
    median, many = np.quantile(values, [0.5, 0.95])
    caption = f"In {unit}: median {median:.0f}, 95 % have at most {many:.0f}, the longest {max(lengths.values):,}."
    if lengths.limit is not None:
        cut = (values > lengths.limit).mean()
        caption += (
            f" The model reads {lengths.limit:,}, special tokens included; {cut:.1%} are longer and cut off there."
        )
    return Figure(f"Length of the {what}", panel, caption + of)


def _steps(values: NDArray[np.float64], edges: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Return the middle of each bin, and the number of values in it, with an empty bin at either end."""
    counts, _ = np.histogram(values, edges)
    middles, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    return [middles[0] - width, *middles.tolist(), middles[-1] + width], [0, *counts.tolist(), 0]


def _deepest(one: ReportedEvaluation) -> int:
    return max((ranked.rank for ranking in one.rankings for ranked in ranking), default=1)
