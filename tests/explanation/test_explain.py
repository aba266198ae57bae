"""One question of a run explained: places are those of the searches, and what is missing is said."""

import json
import subprocess
import sys

import numpy as np
import pytest
from support.commands import assert_mistake, assert_succeeds, run_script
from support.embedding_files import write_corpus
from support.world import ROOT, write_jsonl

from dpr_lightning.data.sources import open_corpus, open_queries, open_training
from dpr_lightning.data.tokenizer import InputTokenizer
from dpr_lightning.embeddings.file import open_embeddings
from dpr_lightning.embeddings.shards import open_passages
from dpr_lightning.evaluation.qrels import read_qrels
from dpr_lightning.explanation import gold as gold_module
from dpr_lightning.explanation.explain import explain
from dpr_lightning.explanation.ranks import exact_places
from dpr_lightning.explanation.text import explanation_text, findings
from dpr_lightning.explanation.truncation import Lengths
from dpr_lightning.model.pretrained_tokenizer import load_tokenizer
from dpr_lightning.model.settings import Settings
from dpr_lightning.retrieval.bm25 import Bm25
from dpr_lightning.retrieval.exact import exact_topk
from dpr_lightning.retrieval.rankings import read_rankings, write_rankings
from dpr_lightning.retrieval.retriever import Queries
from dpr_lightning.run_dir import RunDir


@pytest.fixture
def explained(world, finished_run):
    """A function that explains a question of the finished run, whose rankings have 20 of 40 passages."""

    def run(qid, **options):
        sources = {
            "queries": open_queries(str(world / "test.jsonl")),
            "corpus": open_corpus(str(world / "corpus.jsonl")),
            "train": open_training(str(world / "train.jsonl.gz")),
            "qrels": read_qrels(world / "test.qrels"),
        }
        return explain(RunDir(finished_run), qid, **{**sources, **options})

    return run


def test_places_are_those_of_the_searches_also_below_the_ranking_s_depth(explained, world, finished_run):
    run, corpus = RunDir(finished_run), open_corpus(str(world / "corpus.jsonl"))
    queries = open_queries(str(world / "test.jsonl")).rows
    embeddings = np.asarray(open_embeddings(run.query_embeddings("test")).array)
    scores, rows = exact_topk(embeddings, open_passages(run.passage_shards), depth=40, block_rows=7)
    bm25 = Bm25(finished_run / "own-bm25", corpus)
    short = [one._replace(docids=one.docids[:4], scores=one.scores[:4]) for one in read_rankings(run.ranking("test"))]
    write_rankings(finished_run / "short.trec", short, format="trec")
    ranks = []
    for i, row in list(enumerate(queries))[::2]:
        one = explained(row["query_id"], run_file=finished_run / "short.trec")
        (gold,) = one.best_gold
        expected = rows[i].tolist().index(int(row["query_id"][1:]))
        assert (gold.exact.rank, np.float32(gold.exact.score)) == (expected + 1, scores[i, expected])
        assert gold.ranked == (gold.exact if expected < 4 else None)
        (found,) = bm25.search(Queries([""], texts=[row["query"]]), depth=40)
        assert gold.bm25.rank == found.docids.index(gold.passage.docid) + 1
        assert one.nearest[0].row["query_id"] == row["query_id"]  # the training questions include it
        ranks.append(gold.exact.rank)
        below = f"{gold.passage.docid} ranks {expected + 1} of 40 by embeddings, below the 4 that are ranked"
        assert any(below in finding for finding in findings(one)) == (expected >= 4)
    assert min(ranks) <= 4 < max(ranks)  # both cases occur


def test_equal_scores_rank_by_corpus_row(tmp_path):
    values = np.random.default_rng(3).integers(0, 3, (30, 4)).astype(np.float32)
    write_corpus(tmp_path, values, 2)
    passages, query = open_passages(tmp_path), np.array([[1, 2, 0, 1]], np.float32)
    _, rows = exact_topk(query, passages, depth=30, block_rows=5)
    places = exact_places(query[0], passages, list(range(30)))
    assert [places[row].rank for row in rows[0].tolist()] == list(range(1, 31))


def test_the_script_takes_everything_from_the_run(explained, world, finished_run):
    out = assert_succeeds(run_script("explain", finished_run, "q3", "--depth", 2))
    assert out == explanation_text(explained("q3", depth=2)) + "\n"
    assert max(map(len, out.splitlines())) <= 80
    assert "GOLD, 1 passage: judged relevant\n" in out
    assert ("HIT at rank" in out) != ("MISS" in out)
    message = assert_mistake(run_script("explain", finished_run, "q1"))
    assert message.startswith("qid: q1 is not one of the 12 questions of test. Did you mean q")
    assert "queries: " in assert_mistake(run_script("explain", finished_run, "q3", "--split", "other"))
    named = assert_succeeds(run_script("explain", finished_run, "q3", "--gold", "d9", "d77"))
    assert "GOLD, 1 passage: named by the user\n    d77 is not in the corpus\n" in named


def test_a_call_that_failed_or_runs_still_does_not_say_what_a_run_was_evaluated_with(
    command, settings, world, finished_run, tmp_path
):
    before = assert_succeeds(run_script("explain", finished_run, "q3"))
    rows = [json.loads(line) for line in (world / "test.jsonl").read_text().splitlines()]
    other = write_jsonl(tmp_path / "other.jsonl", [{**row, "query_id": f"x{i}"} for i, row in enumerate(rows)])
    changed = [*settings, f"data.queries.test={other}"]
    assert command("evaluate", *changed, "overwrite=true")[0] == 1
    assert assert_succeeds(run_script("explain", finished_run, "q3")) == before
    max(finished_run.glob("logs/evaluate/*/ended.json")).unlink()  # as while it runs, and after `kill -9`
    assert assert_succeeds(run_script("explain", finished_run, "q3")) == before


def test_an_evaluation_of_another_method_does_not_say_what_a_ranking_was_evaluated_with(
    command, settings, world, finished_run, tmp_path
):
    before = assert_succeeds(run_script("explain", finished_run, "q3"))
    rows = [json.loads(line) for line in (world / "test.jsonl").read_text().splitlines()]
    other = write_jsonl(tmp_path / "other.jsonl", [{**row, "query_id": f"x{row['query_id']}"} for row in rows])
    for name in ("search", "evaluate"):
        words = [*settings, f"data.queries.test={other}", "data.qrels.test=null", "method=bm25"]
        assert command(name, *words)[0] == 0
    assert assert_succeeds(run_script("explain", finished_run, "q3")) == before
    assert "xq3" in assert_succeeds(run_script("explain", finished_run, "xq3", "--method", "bm25"))


def test_without_judgments_gold_passages_are_those_with_an_answer(explained, monkeypatch):
    one = explained("q3", qrels=None)
    assert "corpus with an answer" in one.gold.how
    assert 3 in one.gold.rows and all(gold.passage.has_answer for gold in one.best_gold)
    assert [gold.exact.rank for gold in one.best_gold] == sorted(gold.exact.rank for gold in one.best_gold)
    assert (one.first_hit or 99) >= one.best_gold[0].exact.rank
    monkeypatch.setattr(gold_module, "_SCANNED", 39)
    large = explained("q3", qrels=None)
    ranked = {int(docid[1:]) for docid in large.ranking.docids}
    assert set(large.gold.rows) == set(one.gold.rows) & ranked
    assert "the corpus is too large" in large.gold.how


def test_what_is_missing_is_said_in_a_line_each(explained, finished_run, monkeypatch):
    run = RunDir(finished_run)
    run.query_embeddings("test").unlink()
    (run.model / "tokenizer.json").unlink()
    monkeypatch.setitem(sys.modules, "bm25s", None)
    one = explained("q3", train=None)
    assert one.missing.keys() == {"exact ranks", "tokens", "BM25", "training questions"}
    assert one.best_gold[0].exact is one.best_gold[0].bm25 is one.best_gold[0].cut is None
    text = " ".join(explanation_text(one).split())
    assert "pip install 'dpr_lightning[bm25]'" in text
    assert "query/test.safetensors does not exist" in text


@pytest.mark.parametrize("separator", [" ", "pair"])
@pytest.mark.parametrize("length", [8, 12, 156])
def test_tokens_are_counted_as_the_encoder_counts_them(finished_run, separator, length):
    folder = finished_run / "model"
    changes = {"separator": separator, "passage_max_length": length, "passage_prompt": "bap ", "query_max_length": 5}
    saved = json.loads((folder / "dpr_lightning.json").read_text())
    (folder / "dpr_lightning.json").write_text(json.dumps(saved | changes))
    lengths = Lengths(folder)
    inputs = InputTokenizer(load_tokenizer(str(folder), [folder]), **Settings.load(folder).inputs())
    for title, text in (("bap ber", "dit fot bap ber dit fot"), ("", "dit fot"), ("bap", ""), ("bap", "dit " * 300)):
        (ids,) = inputs.encode_passages([title], [text])
        cut = lengths.passage(title, text)
        assert len(ids) == cut.tokens - cut.lost
        seen = inputs.tokenizer(cut.seen, add_special_tokens=False)["input_ids"]
        assert not seen or ids[-1 - len(seen) : -1] == seen
        assert text.startswith(cut.seen) and (cut.lost or cut.seen == text)
    (ids,) = inputs.encode_queries(["dit fot bap ber"])
    assert (len(ids), lengths.query("dit fot bap ber").lost) == (5, 1)


def test_an_answer_in_the_part_that_is_cut_off_is_found(explained, finished_run, world):
    file = finished_run / "model" / "dpr_lightning.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"passage_max_length": 4}))
    one = explained("q3")
    (gold,) = one.best_gold
    assert gold.cut.lost and gold.is_answer_cut == (gold.passage.text.split()[0] not in gold.cut.seen)
    assert any("is in the part that is cut off" in finding for finding in findings(one)) == gold.is_answer_cut


def test_explaining_needs_no_torch():
    code = "import sys, dpr_lightning.explanation.text; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
