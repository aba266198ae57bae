"""Charts as SVG: well-formed for any name, the same bytes every time, in the colors of the page that they are on."""

import re
import sys
from xml.etree import ElementTree

import pytest

from dpr_lightning.charts import COLORS, Bars, Lines, draw, for_page
from dpr_lightning.errors import MissingExtraError

LINES = Lines({"a": ([1, 2, 10], [0.0, 0.5, 1.0]), "b": ([1], [0.25])}, x="k", y="accuracy@k", is_log=True)


def test_any_name_is_drawn_as_it_is():
    names = ["_a & <b>", "$x$ \\frac{", "日本\x00\x1b", "n" * 100]
    chart = Lines({name: ([1, 2], [i, i]) for i, name in enumerate(names)}, x="x", y="y")
    texts = [element.text for element in ElementTree.fromstring(draw(chart)).iter() if element.tag.endswith("text")]
    assert {"_a & <b>", "$x$ \\frac{", "日本\ufffd\ufffd"} <= set(texts)
    assert any(re.fullmatch("n{20,}…", text or "") for text in texts)


def test_a_chart_is_the_same_each_time_and_lower_values_are_further_down():
    svg = draw(LINES, Bars(["1", "none"], {"a": [3, 1], "b": [2, 2]}, x="rank", y="questions"))
    assert svg == draw(LINES, Bars(["1", "none"], {"a": [3, 1], "b": [2, 2]}, x="rank", y="questions"))
    path = re.search(rf'd="M ([^"]+?)"[^>]*style="fill: none; stroke: {COLORS[0]}', svg.replace("\n", ""))
    (x1, y1), (x2, y2), (x3, y3) = [tuple(map(float, point.split())) for point in path[1].split("L")]
    assert x1 < x2 < x3
    assert y1 - y2 == pytest.approx(y2 - y3)
    assert y1 > y2
    assert {"1", "2", "5", "10"} <= set(re.findall(r">(\d+)</text>", svg))


def test_a_page_decides_the_colors():
    svg = for_page(draw(LINES), 'Accuracy "at" <k>')
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert {"var(--series-0)", "var(--series-1)", "var(--line)", "currentColor"} <= set(
        re.findall(r"[:] ([\w()-]+)", svg)
    )
    assert ElementTree.fromstring(svg).get("aria-label") == 'Accuracy "at" <k>'
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert all(f"#{one}" in svg for one in ids)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"need matplotlib. Install it: pip install 'dpr_lightning\[report\]'"):
        draw(LINES)
