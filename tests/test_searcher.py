"""Searching by text equals search.py; embeddings of another model or corpus are refused."""

import io
import re
import sys

import pytest
from support.commands import assert_mistake, assert_succeeds, run_script
from support.world import passage, question, write_jsonl

import dpr_lightning
from dpr_lightning.data.sources import open_corpus, open_queries
from dpr_lightning.embeddings.shards import open_passages
from dpr_lightning.encoding.stage import ShardEncoder, encode_passages
from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.output import read_questions
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.export import save_bi_encoder
from dpr_lightning.model.settings import Settings
from dpr_lightning.retrieval.index_file import open_index
from dpr_lightning.retrieval.methods import Method
from dpr_lightning.retrieval.rankings import read_rankings
from dpr_lightning.retrieval.stage import search
from dpr_lightning.run_dir import RunDir

QUESTIONS = [question(i) for i in (3, 11, 29)]


@pytest.fixture(scope="module")
def run_dir(world, tiny_model, tmp_path_factory):
    """An untied model and the embeddings of the small world in 3 shards."""
    folder = tmp_path_factory.mktemp("searcher") / "run"
    bi_encoder = load_bi_encoder(tiny_model, settings=Settings(tied=False))
    for weight in bi_encoder.query.parameters():
        weight.data += 0.01
    save_bi_encoder(bi_encoder, folder / "model")
    corpus = open_corpus(str(world / "corpus.jsonl"))
    encode_passages(RunDir(folder), ShardEncoder(bi_encoder, corpus, side="passage"), shard=None, num_shards=3)
    return folder


@pytest.fixture(scope="module")
def corpus(world):
    return str(world / "corpus.jsonl")


@pytest.mark.parametrize("method", [None, "bm25", "hybrid"])
def test_it_ranks_as_the_search_stage(run_dir, corpus, tmp_path, method):
    source = open_queries(str(write_jsonl(tmp_path / "queries.jsonl", QUESTIONS)))
    encoder = ShardEncoder(load_bi_encoder(run_dir / "model"), source, side="query", overwrite=True)
    run = RunDir(run_dir)
    encoder.encode(run.query_embeddings("three"))
    search(run, Method(method), split="three", depth=7, queries=source, corpus=open_corpus(corpus), overwrite=True)
    ranked = list(read_rankings(run.ranking("three", method=method)))
    texts = [row["query"] for row in QUESTIONS]
    found = dpr_lightning.Searcher(run_dir, corpus=corpus, method=method).search(texts, depth=7)
    assert [one.docids for one in found] == [one.docids for one in ranked]
    for one, expected in zip(found, ranked, strict=True):
        assert one.scores.tolist() == expected.scores.tolist()  # the queries are in other batches
        assert [{key: row[key] for key in ("docid", "title", "text")} for row in one.passages] == [
            passage(int(docid[1:])) for docid in one.docids
        ]


def test_it_takes_many_questions_and_none(run_dir, corpus):
    searcher = dpr_lightning.Searcher(run_dir, corpus=corpus)
    texts = [question(i % 40)["query"] for i in range(70)]
    found = searcher.search(texts, depth=100)
    assert len(found) == 70
    assert [len(set(one.docids)) for one in found] == [40] * 70
    assert found[65].docids == searcher.search([texts[65]], depth=40)[0].docids
    assert searcher.search([]) == []


@pytest.fixture(scope="module")
def indexed(run_dir):
    """The run with an index of 4 lists."""
    run = RunDir(run_dir)
    open_index(run, "IVF4,Flat", open_passages(run.passage_shards), memory=1 << 20)
    return run_dir


def test_an_index_that_visits_all_lists_ranks_exactly(indexed, corpus):
    texts = [row["query"] for row in QUESTIONS]
    exact = dpr_lightning.Searcher(indexed, corpus=corpus).search(texts, depth=7)
    ann = {"nprobe": 4, "rescore": 2}
    found = dpr_lightning.Searcher(indexed, corpus=corpus, index="IVF4,Flat", ann=ann).search(texts, depth=7)
    for one, expected in zip(found, exact, strict=True):
        assert (one.docids, one.scores.tobytes()) == (expected.docids, expected.scores.tobytes())
        assert one.passages == expected.passages
    few = dpr_lightning.Searcher(indexed, corpus=corpus, index="IVF4,Flat").search(texts, depth=40)
    assert all(0 < len(one.docids) < 40 for one in few)
    with pytest.raises(UserError, match=r"index: .*index/SQ8 does not exist. Build it with search.py index='SQ8'"):
        dpr_lightning.Searcher(indexed, corpus=corpus, index="SQ8")


def test_impossible_searches_are_refused(run_dir, corpus, tiny_model, tmp_path):
    searcher = dpr_lightning.Searcher(run_dir, corpus=corpus)
    with pytest.raises(UserError, match=r"questions: 'one text' is one text. Give a list"):
        searcher.search("one text")
    with pytest.raises(UserError, match="depth: 0 is not a whole number"):
        searcher.search(["a"], depth=0)
    other = write_jsonl(tmp_path / "other.jsonl", [passage(i) for i in range(39)])
    with pytest.raises(
        UserError, match=r"corpus: .*00-of-03.safetensors was encoded from another corpus than .*other.jsonl"
    ):
        dpr_lightning.Searcher(run_dir, corpus=str(other))
    with pytest.raises(UserError, match=r"00-of-03.safetensors was encoded by another model than"):
        dpr_lightning.Searcher(run_dir, corpus=corpus, model_dir=tiny_model)
    with pytest.raises(UserError, match="passage has no shards"):
        dpr_lightning.Searcher(tmp_path, corpus=corpus)


def test_the_package_has_no_other_names():
    with pytest.raises(AttributeError, match="no attribute 'Finder'"):
        dpr_lightning.Finder  # noqa: B018


def test_ask_shows_scores_docids_and_passages(run_dir, corpus, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    text = QUESTIONS[1]["query"]
    out = assert_succeeds(run_script("ask", run_dir, text, "--corpus", corpus, "--depth", "2"))
    (found,) = dpr_lightning.Searcher(run_dir, corpus=corpus).search([text], depth=3)
    assert out.splitlines()[0].strip() == text
    for docid, score, row in list(zip(found.docids, found.scores, found.passages, strict=True))[:2]:
        assert f" {docid} " in out
        assert f"{score:.3f}" in out
        assert row["text"] in out
    assert f" {found.docids[2]} " not in out and "\x1b" not in out
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = assert_succeeds(run_script("ask", run_dir, text.upper(), "--corpus", corpus, "--depth", "40"))
    assert set(re.findall("\x1b\\[[0-9;]*33m([a-z]+)\x1b", out)) == set(text.split())
    assert "has no shards" in assert_mistake(run_script("ask", run_dir / "absent", text, "--corpus", corpus))
    assert "there is no file" in assert_mistake(run_script("ask", run_dir, text, "--corpus", "absent.jsonl"))
    assert "give it with --corpus" in assert_mistake(run_script("ask", run_dir, text))


def test_ask_reads_questions_line_by_line_and_knows_the_corpus_of_the_run(finished_run, corpus, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    texts = [row["query"] for row in QUESTIONS[:2]]
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{texts[0]}\n\n {texts[1]}\n"))
    out = assert_succeeds(run_script("ask", finished_run, "--depth", "1"))
    for found in dpr_lightning.Searcher(finished_run, corpus=corpus).search(texts, depth=1):
        assert f" {found.docids[0]} " in out and found.passages[0]["text"] in out
    assert out.count("score") == 2


def test_ask_highlights_answers_that_the_run_s_evaluation_knows(finished_run, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    evaluated = read_questions(finished_run / "evaluation" / "test")[0]
    for text, highlighted in ((evaluated["question"], set(evaluated["answers"])), ("an unknown question", set())):
        out = assert_succeeds(run_script("ask", finished_run, text, "--depth", "40"))
        assert set(re.findall("\x1b\\[[0-9;]*42m([a-z]+)\x1b", out)) == highlighted


def test_ask_searches_with_an_index(indexed, corpus, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    text = QUESTIONS[1]["query"]
    (found,) = dpr_lightning.Searcher(indexed, corpus=corpus, index="IVF4,Flat").search([text], depth=40)
    out = assert_succeeds(run_script("ask", indexed, text, "--corpus", corpus, "--depth", "40", "--index", "IVF4,Flat"))
    assert {word for word in out.split() if word[0] == "d" and word[1:].isdigit()} == set(found.docids)
    asked = run_script("ask", indexed, text, "--corpus", corpus, "--index", "SQ8")
    assert "index/SQ8 does not exist" in assert_mistake(asked)
