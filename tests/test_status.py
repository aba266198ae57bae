"""The status of a run, from its files and locks."""

import json

import pytest
from support.commands import assert_mistake, assert_succeeds, run_script
from support.embedding_files import identity

from dpr_lightning.embeddings.writer import EmbeddingWriter
from dpr_lightning.locks import exclusive_lock
from dpr_lightning.run_dir import RunDir
from dpr_lightning.status import status


def states(run):
    return {line.part.strip(): (line.state, line.about) for line in status(RunDir(run))}


def test_an_empty_run_lacks_everything(tmp_path):
    parts = ("training", "passages", "queries", "ranking", "evaluation")
    assert states(tmp_path) == dict.fromkeys(parts, ("missing", ""))


def test_a_finished_run_is_done(finished_run):
    parts = ("training", "passages", "queries test", "ranking test", "evaluation test")
    assert states(finished_run) == dict.fromkeys(parts, ("done", ""))
    assert "evaluation test done" in " ".join(assert_succeeds(run_script("status", finished_run)).split())


def test_shards_are_counted_and_those_in_work_are_described(finished_run, tmp_path):
    """One shard is missing, one was left by a process that died, one is being written."""
    run = RunDir(finished_run)
    for number in range(3):
        run.passage_shard(number, 3).rename(run.passage_shard(number, 5))
    run.passage_shard(1, 5).unlink()
    options = {"dim": 2, "dtype": "float32", "chunk_size": 4}
    with EmbeddingWriter(run.passage_shard(3, 5), identity(10), ["x"] * 10, **options) as writer:
        writer.append([[1, 2]] * 4)
    with EmbeddingWriter(run.passage_shard(4, 5), identity(10), ["x"] * 10, **options) as writer:
        writer.append([[1, 2]] * 4)
        writer.append([[1, 2]] * 4)
        found = states(finished_run)
    assert found["passages"] == ("2 of 5", "missing: 1")
    assert found["03-of-05"] == ("stopped", "at 4 of 10 rows; the same command continues")
    state, about = found["04-of-05"]
    assert (state, about.partition(",")[0]) == ("running", "8 of 10 rows")
    assert "rows/s" in about and "min left, on " in about


def test_a_training_runs_or_has_stopped_at_a_step(finished_run):
    run = RunDir(finished_run)
    with exclusive_lock(run.model):
        state, about = states(finished_run)["training"]
    assert state == "running" and about.startswith("on ")
    run.model.rename(finished_run / "other")
    assert states(finished_run)["training"] == ("stopped", "at step 4; the same command continues")


@pytest.mark.parametrize("mended", [False, True])
def test_the_last_call_s_mistake_is_shown_until_it_succeeds(command, settings, finished_run, mended):
    (finished_run / "evaluation").rename(finished_run / "moved")
    ranking = finished_run / "rankings" / "test.trec"
    ranking.rename(ranking.with_suffix(".kept"))
    code, _, err = command("evaluate", *settings)
    assert code == 1
    if mended:
        ranking.with_suffix(".kept").rename(ranking)
        assert command("evaluate", *settings)[0] == 0
    failed = [line for line in status(RunDir(finished_run)) if line.state == "failed"]
    assert [line.part for line in failed] == ([] if mended else ["last call of evaluate"])
    assert mended or failed[0].about.startswith(err.strip())
    ends = [json.loads(file.read_text()) for file in sorted(finished_run.glob("logs/evaluate/*/ended.json"))]
    assert [end["exit_code"] for end in ends] == [0, 1, *([0] if mended else [])]


def test_the_log_of_a_failed_call_is_on_one_line(command, settings, finished_run):
    assert command("evaluate", *settings, "overwrite=true", "topk=[0]")[0] == 1
    (failed,) = [line for line in status(RunDir(finished_run)) if line.state == "failed"]
    lines = assert_succeeds(run_script("status", finished_run)).splitlines()
    assert lines[-1] == f"last call of evaluate failed {failed.about}" and len(lines[-1]) > 80
    assert lines[-1].endswith(")") and all(len(line) <= 80 for line in lines[1:-1])


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    assert assert_mistake(run_script("status", tmp_path / "no")) == (
        f"{tmp_path}/no is not a folder. Give the folder of a run, such as runs/nq."
    )
