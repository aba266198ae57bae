"""The server gives every one of many concurrent requests the answer of `Searcher`, as JSON and on its page."""

import asyncio
import json
import logging
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from starlette.testclient import TestClient
from support.browser import chromium, page  # noqa: F401
from support.commands import assert_mistake, run_script
from support.world import ROOT, question

from dpr_lightning.data.sources import open_corpus
from dpr_lightning.errors import UserError
from dpr_lightning.retrieval.bm25 import Bm25
from dpr_lightning.run_dir import RunDir
from dpr_lightning.searcher import Found, Searcher
from dpr_lightning.serving.app import make_app
from dpr_lightning.serving.batcher import Batcher, Request
from dpr_lightning.serving.searchers import open_searchers

QUESTIONS = [question(number)["query"] for number in range(40)]


@pytest.fixture(scope="module")
def corpus(world):
    return str(world / "corpus.jsonl")


@pytest.fixture(scope="module")
def run_dir(_finished_run, corpus, tmp_path_factory):
    """A finished run with an index of BM25."""
    folder = shutil.copytree(_finished_run, tmp_path_factory.mktemp("serving") / "run")
    Bm25(RunDir(folder).index("bm25"), open_corpus(corpus))
    return folder


@pytest.fixture(scope="module")
def address(run_dir):
    """The address of `serve.py`, which ends at Ctrl-C like any command."""
    command = [sys.executable, ROOT / "scripts" / "serve.py", run_dir, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert line.endswith(" answers questions about run (exact, bm25, hybrid); Ctrl-C ends it\n"), (
            process.stderr.read()
        )
        yield line.split()[0]
        process.send_signal(signal.SIGINT)
        assert process.communicate() == ("", "interrupted\n")
        assert process.returncode == 130


def get(address, **values):
    """The status and the JSON of `/search`."""
    try:
        with urllib.request.urlopen(f"{address}search?{urllib.parse.urlencode(values)}") as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_concurrent_requests_get_the_answers_of_the_searcher(address, run_dir, corpus):
    asked = [(text, method, depth) for method in ("exact", "bm25", "hybrid") for depth in (3, 7) for text in QUESTIONS]
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda one: get(address, q=one[0], method=one[1], k=one[2]), asked))
    for method in ("exact", "bm25", "hybrid"):
        found = dict(
            zip(QUESTIONS, Searcher(run_dir, corpus=corpus, method=method).search(QUESTIONS, depth=7), strict=True)
        )
        for (text, _, depth), (status, answer) in zip(asked, answers, strict=True):
            if answer["method"] != method:
                continue
            expected = found[text]
            assert (status, answer["question"], len(answer["passages"])) == (200, text, depth)
            assert answer["seconds"] > 0
            for rank, passage in enumerate(answer["passages"]):
                row = expected.passages[rank]
                assert passage == {
                    **{key: row[key] for key in ("docid", "title", "text")},
                    "score": float(expected.scores[rank]),
                }


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({}, "q: the question is missing. Give it as q=TEXT."),
        ({"q": " "}, "q: the question is missing. Give it as q=TEXT."),
        ({"q": "x" * 2001}, "q: 2,001 characters are more than 2,000. Shorten the question."),
        ({"q": "x", "k": "101"}, "k: '101' is not a number from 1 to 100. Correct k."),
        ({"q": "x", "k": "0"}, "k: '0' is not a number from 1 to 100. Correct k."),
        ({"q": "x", "k": "ten"}, "k: 'ten' is not a number from 1 to 100. Correct k."),
        ({"q": "x", "method": "index"}, "method: 'index' is not possible. Set method to one of: exact, bm25, hybrid."),
    ],
)
def test_an_impossible_request_is_refused_in_one_line(address, values, error):
    assert get(address, **values) == (400, {"error": error})


def test_a_search_that_fails_is_an_error_of_the_server():
    """The errors of a damaged file and of a defect, and an address that does not exist."""

    class Broken:
        def search(self, questions, *, depth):
            raise UserError("`x.safetensors` is\ndamaged. Encode again.") if depth == 1 else KeyError("x")

    client = TestClient(make_app({"exact": Broken()}, name="run"), raise_server_exceptions=False)
    for target, status, error in [
        ("/search?q=a&k=1", 500, "x.safetensors is damaged. Encode again."),
        ("/search?q=a&k=2", 500, "the search failed: KeyError"),
        ("/absent", 404, "Not Found"),
    ]:
        answer = client.get(target)
        assert (answer.status_code, answer.json()) == (status, {"error": error})


def test_unusual_questions_are_answered(address):
    for text in ("x" * 2000, "\0", "<b>&", "é😀", "%"):
        status, answer = get(address, q=text)
        assert (status, answer["question"], len(answer["passages"])) == (200, text, 10)


def test_the_page_needs_nothing_from_elsewhere(address):
    with urllib.request.urlopen(address) as response:
        html, policy = response.read().decode(), response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in html and "@import" not in html and "innerHTML" not in html


def test_mistakes_at_the_start_are_one_line(run_dir, address, monkeypatch):
    port = urllib.parse.urlsplit(address).port
    line = assert_mistake(run_script("serve", run_dir, "--port", port))
    assert line == f"--port: 127.0.0.1:{port} cannot be used (Address already in use). Give another --port or --host."
    line = assert_mistake(run_script("serve", run_dir, "--port", 70000))
    assert line == "--port: 70000 is not a number from 0 to 65535. Correct it."
    assert assert_mistake(run_script("serve", run_dir, "--host", "256.0.0.1")).startswith("--host: '256.0.0.1' is not")
    assert "has no training that names its corpus" in assert_mistake(run_script("serve", run_dir / "x", "--port", 0))
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    line = assert_mistake(run_script("serve", run_dir))
    assert line == "serve.py needs starlette and uvicorn. Install them: pip install 'dpr_lightning[serve]'."


def test_an_index_of_bm25_that_cannot_be_used_is_left_out(run_dir, corpus, tmp_path, caplog):
    run = RunDir(shutil.copytree(run_dir, tmp_path / "run"))
    (run.index("bm25") / "identity.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        assert list(open_searchers(run, corpus=corpus)) == ["exact"]
    assert "without BM25: method: " in caplog.text and "bm25 is damaged" in caplog.text


class Recorder:
    """A searcher of texts that remembers its batches and fails at `bad`."""

    def __init__(self):
        self.batches = []

    def search(self, questions, *, depth):
        self.batches.append((len(questions), depth))
        if "bad" in questions:
            raise ValueError("bad")
        return [Found([text], np.zeros(1, np.float32), [{}]) for text in questions]


def test_waiting_requests_of_one_method_and_depth_are_one_batch():
    recorder, other = Recorder(), Recorder()
    batcher = Batcher({"exact": recorder, "bm25": other})
    asked = [Request(f"{number}", ("exact", "bm25")[number % 2], 5) for number in range(200)]
    asked += [Request("bad", "exact", 6), Request("deep", "exact", 7)]

    async def ask():
        return await asyncio.gather(*map(batcher.search, asked), return_exceptions=True)

    *answers, bad, deep = asyncio.run(ask())
    assert [found.docids for found in answers] == [[request.question] for request in asked[:200]]
    assert str(bad) == "bad" and deep.docids == ["deep"]
    assert recorder.batches == [(64, 5), (36, 5), (1, 6), (1, 7)]
    assert other.batches == [(64, 5), (36, 5)]


def fits(shown):
    return shown.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.browser
def test_the_page_answers_a_question_and_switches_the_method(address, page, run_dir, corpus):  # noqa: F811
    searcher = Searcher(run_dir, corpus=corpus)
    (dense,) = searcher.search([QUESTIONS[11]], depth=10)
    (bm25,) = searcher.with_method("bm25").search([QUESTIONS[11]], depth=10)
    page.goto(address)
    page.keyboard.type(QUESTIONS[11])  # the field has the focus
    page.keyboard.press("Enter")
    docids = page.locator(".docid")
    page.get_by_text("10 passages by dense in").wait_for()
    assert docids.all_inner_texts() == dense.docids
    assert page.locator(".score").all_inner_texts() == [f"{score:.3f}" for score in dense.scores]
    page.get_by_label("dense").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("10 passages by BM25 in").wait_for()
    assert docids.all_inner_texts() == bm25.docids
    first = page.locator("li").first
    assert {text.lower() for text in first.locator("mark").all_inner_texts()} == set(QUESTIONS[11].split())
    assert first.locator("p").inner_text() == bm25.passages[0]["text"]
    for width in (1400, 400):
        page.set_viewport_size({"width": width, "height": 800})
        assert fits(page)
    page.reload()  # the address has the question
    page.get_by_text("10 passages by BM25 in").wait_for()


@pytest.mark.browser
def test_the_page_shows_data_as_text_and_errors_in_words(address, page):  # noqa: F811
    html = "<img src=x onerror='throw 1'> " + "x" * 300
    passage = {"docid": html, "title": html, "text": html, "score": 1}
    answer = {"question": "x", "method": "exact", "seconds": 1, "passages": [passage]}
    page.set_viewport_size({"width": 400, "height": 800})
    light = page.goto(address) and page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.route("**/search?*", lambda route: route.fulfill(json=answer))
    page.get_by_label("Question").fill("img")
    page.get_by_role("button").click()
    page.get_by_text("1 passages by dense").wait_for()
    assert page.locator("li p").inner_text() == html and page.locator("img").count() == 0
    assert fits(page)
    page.unroute("**/search?*")
    page.route("**/search?*", lambda route: route.fulfill(status=400, json={"error": "q: is wrong."}))
    page.get_by_role("button").click()
    page.get_by_text("q: is wrong.").wait_for()
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
