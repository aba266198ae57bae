"""Charts as SVG text, drawn by matplotlib without the state of pyplot.

A chart stands alone as a file (dark on white), or on a page that has its own colors; see `for_page`.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from dpr_lightning.errors import MissingExtraError

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
"""Colors of the first, second, … line, which color-blind people can tell apart; line 8 has the first one again."""

_INK, _GRID = "#222222", "#dddddd"
_STYLES = ("solid", "dashed", "dotted")  # of the first 7 lines, the next 7, the rest
_WIDTH, _HEIGHT, _LEGEND_LINE = 4.6, 2.7, 0.2  # inches
_LONGEST_NAME = 48  # characters of a name in the legend
_IDS = re.compile(r' id="[A-Za-z][A-Za-z.2]*_\d+"')  # of groups, which nothing refers to and several charts would share
Numbers = Sequence[float]


@dataclass(frozen=True)
class Lines:
    """A line per name.

    Attributes:
        lines: x and y of the points of each line.
        x: Label of the x-axis.
        y: Label of the y-axis.
        is_log: Whether the x-axis is logarithmic.
        limits: Least and greatest y; None to fit the values.
        is_filled: Whether the lines are steps with the area below them filled, as in a histogram.
        is_whole: Whether x has whole numbers only, and so has its axis.
    """

    lines: Mapping[str, tuple[Numbers, Numbers]]
    x: str
    y: str
    is_log: bool = False
    limits: tuple[float, float] | None = None
    is_filled: bool = False
    is_whole: bool = False

    @property
    def names(self) -> list[str]:
        """Return the names for the legend."""
        return list(self.lines)

    def draw(self, axes: Any) -> list[Any]:
        """Draw into matplotlib's axes; return what stands for each line in the legend."""
        handles = []
        for i, (x, y) in enumerate(self.lines.values()):
            color, style = COLORS[i % len(COLORS)], _STYLES[min(i // len(COLORS), len(_STYLES) - 1)]
            if self.is_filled:
                axes.fill_between(x, y, step="mid", color=color, alpha=0.18, linewidth=0)
            marker = "o" if len(x) == 1 else None  # a line of one point would be invisible
            drawstyle = "steps-mid" if self.is_filled else "default"
            handles += axes.plot(x, y, color=color, linestyle=style, marker=marker, drawstyle=drawstyle, linewidth=1.6)
        if self.is_log:
            axes.set_xscale("log")
            most = max((max(x) for x, _ in self.lines.values()), default=1)
            ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k <= most]
            axes.set_xticks(ticks, [str(k) for k in ticks])
            axes.minorticks_off()
        if self.limits:
            axes.set_ylim(*self.limits)
        elif self.is_filled:
            axes.set_ylim(bottom=0)
            axes.yaxis.get_major_locator().set_params(integer=True)
        if self.is_whole:
            axes.xaxis.get_major_locator().set_params(integer=True)
        return handles


@dataclass(frozen=True)
class Bars:
    """A group of bars per label, in which each name has one bar.

    Attributes:
        labels: Labels of the groups, from left to right.
        bars: The height of each name's bars, in the order of `labels`.
        x: Label of the x-axis.
        y: Label of the y-axis.
    """

    labels: Sequence[str]
    bars: Mapping[str, Numbers]
    x: str
    y: str

    @property
    def names(self) -> list[str]:
        """Return the names for the legend."""
        return list(self.bars)

    def draw(self, axes: Any) -> list[Any]:
        """Draw into matplotlib's axes; return what stands for each name in the legend."""
        width = 0.8 / max(len(self.bars), 1)
        handles = []
        for i, heights in enumerate(self.bars.values()):
            left = [place - 0.4 + width * (i + 0.5) for place in range(len(self.labels))]
            handles.append(axes.bar(left, heights, width * 0.92, color=COLORS[i % len(COLORS)]))
        axes.set_xticks(range(len(self.labels)), self.labels)
        axes.set_xlim(-0.6, len(self.labels) - 0.4)
        axes.yaxis.get_major_locator().set_params(integer=True)
        return handles


@contextlib.contextmanager
def extra_needed() -> Iterator[None]:
    """Raise MissingExtraError if the block cannot import a package of the extra `report`."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"charts and reports need {error.name}. Install it: pip install 'dpr_lightning[report]'."
        ) from error


def draw(*panels: Lines | Bars) -> str:
    """Return an SVG document with the panels side by side; a panel with several names has a legend below it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with extra_needed():
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    legend = max(len(panel.names) if len(panel.names) > 1 else 0 for panel in panels) * _LEGEND_LINE
    height = _HEIGHT + legend
    figure = Figure(figsize=(_WIDTH * len(panels), height), facecolor="white")
    for i, panel in enumerate(panels):
        left, bottom = (i + 0.13) / len(panels), (0.5 + legend) / height
        axes = figure.add_axes((left, bottom, 0.83 / len(panels), 1 - bottom - 0.12 / height), facecolor="none")
        handles = panel.draw(axes)
        _style(axes, panel)
        if len(panel.names) > 1:
            place = (left, (legend + 0.1) / height)
            box = figure.legend(handles, [str(i) for i in range(len(handles))], loc="upper left", bbox_to_anchor=place)
            box.set_frame_on(False)
            for text, name in zip(box.get_texts(), panel.names, strict=True):
                text.set(text=_short(name), parse_math=False, color=_INK, fontsize=8)
    output = io.StringIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dpr_lightning"}):
        warnings.simplefilter("ignore")  # about characters that the font lacks, which the viewer's font may have
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(output, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = output.getvalue()
    return _IDS.sub("", svg[svg.index("<svg") :])


def for_page(svg: str, title: str) -> str:
    """Return the chart as an element of an HTML page: transparent, in the page's text color and other colors.

    The page defines the custom properties `--series-0` to `--series-6`, one for each of `COLORS`, and `--line`.

    Args:
        svg: A chart as `draw` returns it.
        title: What it shows, for screen readers.
    """
    for i, color in enumerate(COLORS):
        svg = svg.replace(color, f"var(--series-{i})")
    svg = svg.replace(_INK, "currentColor").replace(_GRID, "var(--line)")
    svg = svg.replace("fill: #ffffff", "fill: none")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def _style(axes: Any, panel: Lines | Bars) -> None:
    axes.set_xlabel(panel.x, color=_INK, fontsize=9)
    axes.set_ylabel(panel.y, color=_INK, fontsize=9)
    axes.tick_params(colors=_INK, labelsize=8, length=0)
    axes.grid(axis="y", color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_INK)
        spine.set_linewidth(0.6)


def _short(name: str) -> str:
    name = "".join(c if c.isprintable() else "\ufffd" for c in name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
