"""Accuracy@k as a curve in SVG, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]  # for the color-blind too
_LEFT, _TOP, _WIDTH, _HEIGHT = 56, 16, 520, 300
_LINE = 18  # height of a line of the legend


def accuracy_curves(curves: Mapping[str, Sequence[float]]) -> str:
    """Return an SVG document with a line per system: accuracy (0 to 1) over the cutoffs 1, 2, … on a log axis."""
    most = max(len(values) for values in curves.values())
    ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k <= most]
    bottom, height = _TOP + _HEIGHT, _TOP + _HEIGHT + 48 + _LINE * len(curves)

    def x(k: int) -> str:
        return f"{_LEFT + _WIDTH * math.log(k) / max(math.log(most), 1e-9):.1f}"

    def y(accuracy: float) -> str:
        return f"{bottom - _HEIGHT * accuracy:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 24} {height}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for fifth in range(6):
        level = y(fifth / 5)
        parts.append(f'<path d="M{_LEFT} {level}h{_WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{level}" dy="4" text-anchor="end">{fifth / 5:.1f}</text>')
    parts += [f'<text x="{x(k)}" y="{bottom + 18}" text-anchor="middle">{k}</text>' for k in ticks]
    parts.append(f'<text x="{_LEFT + _WIDTH / 2}" y="{bottom + 36}" text-anchor="middle">accuracy@k over k</text>')
    for place, (name, values) in enumerate(curves.items()):
        color, line = _COLORS[place % len(_COLORS)], bottom + 48 + _LINE * place
        points = " ".join(f"{x(k)},{y(value)}" for k, value in enumerate(values, 1))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<rect x="{_LEFT}" y="{line}" width="12" height="4" fill="{color}"/>')
        parts.append(f'<text x="{_LEFT + 20}" y="{line + 6}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])
