"""BM25 ranks by its formula; its index is built once, checked when it is opened, and never used for other data."""

import json
import logging
import math
import random
from collections import Counter

import numpy as np
import pytest
from support.world import question, write_jsonl

from dpr_lightning.data.sources import open_corpus, open_queries
from dpr_lightning.errors import UserError
from dpr_lightning.retrieval.bm25 import Bm25, Bm25Settings, Words
from dpr_lightning.retrieval.retriever import Queries

PLAIN = Bm25Settings(language=None)
WORDS = ["apple", "pear", "plum", "fig", "kiwi", "lime", "date"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """90 passages of few words, many of them equal, one of words that no other has, one without words."""
    draw = random.Random(3)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 6))) for _ in range(88)] + ["zebra zoo", "?"]
    rows = [{"docid": f"d{i}", "title": WORDS[i % 5], "text": text} for i, text in enumerate(texts)]
    return open_corpus(str(write_jsonl(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", rows)))


def formula(corpus, query, k1, b):
    """The score of every passage, word by word."""
    passages = [Counter(f"{row['title']} {row['text']}".replace("?", "").split()) for row in corpus.rows]
    lengths = [passage.total() for passage in passages]
    scores = []
    for passage, length in zip(passages, lengths, strict=True):
        score = 0.0
        for word in query.split():
            n = sum(word in other for other in passages)
            idf = math.log(1 + (len(passages) - n + 0.5) / (n + 0.5))
            norm = k1 * (1 - b + b * length / (sum(lengths) / len(lengths)))
            score += idf * passage[word] / (passage[word] + norm) if passage[word] else 0.0
        scores.append(score)
    return np.array(scores)


def test_the_building_of_an_index_logs_our_lines_alone(tmp_path, corpus, caplog):
    logging.getLogger("bm25s").setLevel(logging.DEBUG)  # as its import does
    with caplog.at_level(logging.DEBUG):
        Bm25(tmp_path / "index", corpus, PLAIN)
    lines = [record.message.split()[:2] for record in caplog.records if "bm25" in record.name]
    assert lines == [["bm25:", "indexing"], ["bm25:", "built"]]


@pytest.mark.parametrize("k1, b", [(0.9, 0.4), (1.2, 0.75), (0.0, 0.0), (2.0, 1.0)])
def test_scores_are_those_of_the_formula_and_ties_rank_by_row(tmp_path, corpus, k1, b):
    texts = ["apple", "pear plum plum", "zebra fig", "unknown", "", "date unknown kiwi lime"]
    bm25 = Bm25(tmp_path / "index", corpus, Bm25Settings(k1, b, language=None))
    for depth in (1, 10, 90):
        for text, ranked in zip(texts, bm25.search(Queries(texts, texts=texts), depth=depth), strict=True):
            scores = formula(corpus, text, k1, b)
            np.testing.assert_allclose(ranked.scores, np.sort(scores)[::-1][:depth], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(ranked.scores, scores[ranked.rows], rtol=1e-5, atol=1e-6)
            ranks = list(zip(-ranked.scores, ranked.rows, strict=True))
            assert ranks == sorted(ranks)
            assert ranked.docids == [f"d{row}" for row in ranked.rows]
            ties = np.flatnonzero(np.isclose(scores, ranked.scores[-1], rtol=1e-5, atol=1e-7))
            chosen = [row for row in ranked.rows if row in ties]
            assert chosen == ties[: len(chosen)].tolist()


def test_stemming_and_stop_words_follow_the_language():
    assert Words(Bm25Settings()).split("The running of the FOXES") == ["run", "fox"]
    assert Words(Bm25Settings(stemming=False)).split("The running of the foxes") == ["running", "foxes"]
    assert Words(Bm25Settings(language="german")).split("Die Füchse und die Häuser") == ["fuchs", "haus"]
    assert Words(PLAIN).split("The Café the café") == ["the", "café", "the", "café"]


def test_the_index_is_built_once_and_refused_when_damaged_or_of_others(tmp_path, corpus, caplog):
    folder = tmp_path / "index"
    with pytest.raises(UserError, match=r"index does not exist. Run `search.py method=bm25`"):
        Bm25(folder, corpus, PLAIN, build=False)
    Bm25(folder, corpus, PLAIN)
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    Bm25(folder, corpus, PLAIN, build=False)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    with pytest.raises(UserError, match=r"index is an index with other settings. Set overwrite=true"):
        Bm25(folder, corpus, Bm25Settings(k1=1.2, language=None))
    other = write_jsonl(tmp_path / "other.jsonl", [{"docid": "d0", "title": "", "text": "apple"}])
    with pytest.raises(UserError, match="index is of another corpus"):
        Bm25(folder, open_corpus(str(other)), PLAIN)
    for name in sorted(before):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(UserError, match=r"index is damaged|index is an index with other"):
            Bm25(folder, corpus, PLAIN)
        (folder / name).write_bytes(content)
    Bm25(folder, open_corpus(str(other)), PLAIN, overwrite=True)


def test_a_corpus_of_stop_words_is_refused(tmp_path):
    rows = [{"docid": f"d{i}", "title": "", "text": text} for i, text in enumerate(["of the", "!", "a"])]
    corpus = open_corpus(str(write_jsonl(tmp_path / "corpus.jsonl", rows)))
    with pytest.raises(UserError, match=r"^corpus: BM25 finds no words in it but stop words"):
        Bm25(tmp_path / "index", corpus)
    assert not (tmp_path / "index").exists()
    (ranked,) = Bm25(tmp_path / "index", corpus, PLAIN).search(Queries(["q"], texts=["of fox"]), depth=2)
    assert ranked.docids == ["d0", "d1"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k1": -1.0}, "k1: -1.0 is not a number of at least 0"),
        ({"k1": math.nan}, "k1: nan is not a number of at least 0"),
        ({"b": 1.5}, "b: 1.5 is not from 0 to 1"),
        ({"language": "klingon"}, "language: 'klingon' has no stemmer or no stop words"),
        ({"language": "klingon", "stemming": False}, "language: 'klingon' has no stemmer or no stop words"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(UserError, match=f"^{message}"):
        Words(Bm25Settings(**values))


def test_the_commands_search_and_evaluate_bm25_and_hybrid_beside_dense(command, settings, finished_run):
    for method in ("bm25", "hybrid"):
        code, out, err = command("search", *settings, f"method={method}")
        assert code == 0, err
        assert f"rankings/test.{method}.trec: 12 queries x 20 of 40 passages" in out
        assert command("evaluate", *settings, f"method={method}")[0] == 0
        metrics = json.loads((finished_run / "evaluation" / f"test.{method}" / "metrics.json").read_text())
        assert metrics["accuracy"]["5"] > 0.9
    code, _, err = command("search", *settings, "method=bm25", "bm25.b=1.0")
    assert (code, "finished already" in err or "different index" in err) == (1, True)
    code, _, err = command("search", *settings, "method=hybrid", "hybrid.weight=2", "overwrite=true")
    assert (code, err) == (1, "hybrid.weight: 2 is not from 0 to 1. Correct hybrid.weight.\n")
    changed = write_jsonl(finished_run.parent / "other.jsonl", [question(1)])
    code, _, err = command("search", *settings, "method=hybrid", f"data.queries.test={changed}", "overwrite=true")
    assert code == 1
    assert err.startswith("data.queries.test: they are not those that")
    assert len(open_queries(str(changed)).rows) == 1
