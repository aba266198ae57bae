"""The report in Chromium: what people click, type and see, at both widths and in both color schemes."""

import pytest
from support.browser import chromium, page  # noqa: F401
from support.commands import assert_succeeds, run_script
from support.evaluations import write_evaluation

pytestmark = pytest.mark.browser
EVIL = "</script><img src=x onerror=document.title='hacked'>"
COUNT = 120  # questions
SIZES = [(400, "light"), (400, "dark"), (1400, "light"), (1400, "dark")]


def ranking(i, hit):
    """Ten passages for question i; the one at rank `hit` has its answer."""
    texts = [(f"p{i}-{rank}", f"Page {i}", f"Some text {EVIL} of rank {rank}.") for rank in range(1, 11)]
    if hit:
        texts[hit - 1] = (f"gold{i}", "Ada 🙂", f"🙂 Answer{i} {EVIL}.")
    return texts


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of two runs, by the script: `base` has its hits at ranks 1 to 5 or none, `ours` at rank 1 or 2."""
    folder = tmp_path_factory.mktemp("report")
    questions = [(f"q{i}", f"what is number {i} {EVIL}", [f"answer{i}"]) for i in range(COUNT)]
    for name, hits in (("base", [i % 6 for i in range(COUNT)]), ("ours", [1 + i % 2 for i in range(COUNT)])):
        rankings = {f"q{i}": ranking(i, hit) for i, hit in enumerate(hits)}
        relevant = {f"q{i}": {f"gold{i}": hit or None} for i, hit in enumerate(hits)}
        write_evaluation(folder / name / "evaluation" / "test", questions, rankings, topk=(1, 5), relevant=relevant)
    script = run_script("compare", folder / "base", folder / "ours", "--report", folder / "report.html")
    assert "120 questions" in assert_succeeds(script)
    return f"file://{folder}/report.html"


@pytest.fixture
def opened(page, report):  # noqa: F811
    """The page of the report; a message on its console, or a request, fails the test."""
    messages, requests = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report)
    yield page
    assert (messages, requests) == ([], [report])
    assert "hacked" not in page.title()


def count(page):  # noqa: F811
    return int(page.locator("#count").text_content().split()[0])


def test_filters_and_search_leave_the_questions_that_they_name(opened):
    assert count(opened) == COUNT
    assert opened.locator("#list > li").count() == 50
    opened.get_by_label("Hit among the first").fill("1")
    expected = {
        "hits": COUNT // 2,  # `ours`, the last run, is chosen at first
        "misses": COUNT // 2,
        "won against base": sum(i % 2 == 0 and i % 6 != 1 for i in range(COUNT)),
        "lost against base": sum(i % 2 == 1 and i % 6 == 1 for i in range(COUNT)),
        "missed by all runs": sum(i % 2 == 1 and i % 6 != 1 for i in range(COUNT)),
    }
    for label, number in expected.items():
        opened.get_by_label("Show").select_option(label)
        assert count(opened) == number, label
    opened.get_by_label("Show").select_option("misses")
    opened.locator("#run").select_option("base")
    assert count(opened) == sum(i % 6 != 1 for i in range(COUNT))
    opened.get_by_label("Show").select_option("all questions")
    opened.get_by_label("Search").fill("NUMBER 17")
    assert count(opened) == 2  # 17 and 117
    opened.get_by_label("Search").fill("no such words")
    assert (count(opened), opened.get_by_role("button", name="Next").is_disabled()) == (0, True)
    opened.get_by_label("Search").fill("answer5")
    assert count(opened) == 11  # 5 and 50 to 59
    opened.get_by_label("Search").fill("")
    opened.locator("#order").select_option("rank of the first hit, misses first")
    assert opened.locator("#list .rank").first.text_content() == "base: miss"


def test_a_question_shows_its_passages_with_the_answer_and_the_relevant_passage(opened):
    opened.get_by_label("Search").fill("number 12")
    opened.locator("#list summary").first.click()
    about = opened.locator("#list .about")
    assert "Judged relevant: gold12 (base: not ranked, ours: rank 1)" in about.text_content()
    assert [column.locator("li").count() for column in about.locator(".columns > div").all()] == [10, 10]
    assert about.locator("mark").all_text_contents() == ["Answer12"]
    hit = about.locator(".passage.hit")
    assert f"🙂 Answer12 {EVIL}." in hit.text_content()
    assert "hit · judged relevant" in hit.text_content()
    assert opened.locator("img").count() == 0


def test_all_of_it_works_with_the_keyboard(opened):
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.textContent") == "Skip to the questions"
    opened.keyboard.press("Enter")
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.id") == "search"
    assert opened.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    opened.keyboard.type("number 7")
    assert count(opened) == sum("7" in str(i) for i in range(COUNT))
    opened.keyboard.press("Control+A")
    opened.keyboard.press("Delete")
    for _ in range(5):
        opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.tagName") == "SUMMARY"
    opened.keyboard.press("Enter")
    assert opened.locator("#list details[open]").count() == 1
    opened.get_by_role("button", name="Next").focus()
    opened.keyboard.press("Enter")
    assert opened.locator("#page").text_content() == "Page 2 of 3"
    assert "number 50" in opened.evaluate("document.activeElement.textContent")
    unlabelled = "[...document.querySelectorAll('input, select')].filter((one) => !one.labels.length).length"
    assert opened.evaluate(unlabelled) == 0


def contrast(page, selector):  # noqa: F811
    """The contrast of an element's text with the background behind it, as WCAG defines it."""
    return page.evaluate(
        """(selector) => {
            const parse = (color) => color.match(/[\\d.]+/g).map(Number);
            const light = (color) => {
                const [r, g, b] = parse(color).slice(0, 3).map((v) => v / 255)
                    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const element = document.querySelector(selector);
            const isSeen = (one) => { const c = parse(getComputedStyle(one).backgroundColor); return c[3] !== 0; };
            let behind = element;
            while (!isSeen(behind)) behind = behind.parentElement;
            const style = getComputedStyle(element);
            const color = element instanceof SVGElement ? style.fill : style.color;
            const pair = [light(color), light(getComputedStyle(behind).backgroundColor)].sort((a, b) => a - b);
            return (pair[1] + 0.05) / (pair[0] + 0.05);
        }""",
        selector,
    )


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_it_fits_and_is_readable(opened, width, scheme):
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": width, "height": 900})
    opened.get_by_label("Search").fill("number 12")
    opened.locator("#list summary").first.click()
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.evaluate("[...document.querySelectorAll('.wide')].every((one) => one.scrollWidth <= one.clientWidth)")
    is_dark = opened.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert is_dark == (scheme == "dark")
    for selector in (
        "h1",
        ".note",
        "td b",
        "td small",
        "figure svg text",
        "mark",
        ".rank.hit",
        ".rank:not(.hit)",
        ".meta",
    ):
        assert contrast(opened, selector) >= 4.5, selector
