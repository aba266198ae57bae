"""Sweeps by other engines than SLURM: Optuna chooses the settings, joblib and Ray run the jobs."""

import os
import signal

import pytest
import yaml
from support.processes import Script
from support.world import passage, settings_of, write_jsonl

from dpr_lightning.embeddings.writer import rows_written
from dpr_lightning.locks import read_holder
from dpr_lightning.run_dir import RunDir
from dpr_lightning.training.metrics_csv import best_logged


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_optuna_gets_the_best_validation_of_each_training(command, settings, tmp_path):
    search = ["optimizer.lr=tag(log,interval(1e-5,1e-2))", "hydra/sweeper=optuna", "hydra.sweeper.direction=maximize"]
    code, out, err = command("train", "-m", *settings, *search, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1")
    assert code == 0, err
    assert f"3 jobs have ended; their logs are in {tmp_path}/run/logs/train/" in out
    (results,) = (tmp_path / "run" / "logs" / "train").glob("*/optimization_results.yaml")
    best = yaml.safe_load(results.read_text())
    reached = {
        folder.name.removeprefix("optimizer.lr-"): best_logged(
            folder / "train" / "metrics.csv", monitor="val/mrr", mode="max"
        )
        for folder in (tmp_path / "run").glob("optimizer.lr-*")
    }
    assert len(reached) == 3
    assert best["best_value"] == max(reached.values()) == reached[str(best["best_params"]["optimizer.lr"])]


@pytest.mark.slow
def test_joblib_encodes_shards_and_passes_on_a_mistake(command, settings, tiny_model, tmp_path):
    model = f"model_dir={tiny_model}"
    with Script("encode", *settings, model, "-m", "shard=0,7,2", "hydra/launcher=joblib") as process:
        _, err = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "shard: 7 does not exist, num_shards=3 has 0 to 2. Correct shard.\n" in err and "Traceback" not in err
    assert command("encode", *settings, model)[0] == 0
    assert command("encode", *settings, model, f"run_dir={tmp_path}/alone")[0] == 0
    ours, alone = RunDir(tmp_path / "run"), RunDir(tmp_path / "alone")
    for number in range(3):
        assert ours.passage_shard(number, 3).read_bytes() == alone.passage_shard(number, 3).read_bytes()


@pytest.mark.slow
def test_ray_resumes_the_shard_of_a_killed_worker(command, world, tiny_model, tmp_path):
    """Two workers of a local cluster; what they write are the bytes of one process. A mistake is one line."""
    pytest.importorskip("ray", reason="needs the extra ray")
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{**passage(i), "docid": f"{i}"} for i in range(6000)])
    sizes = [f"data.corpus={corpus}", f"model_dir={tiny_model}", "num_shards=2", "encode.chunk_size=200"]
    engine = ["-m", "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"]
    settings, run = settings_of(world, tiny_model, tmp_path / "run"), RunDir(tmp_path / "run")
    shard = run.passage_shard(0, 2)
    with Script("encode", *settings, *sizes, *engine, "shard=0,1") as process:
        partial = shard.with_name(f"{shard.name}.partial")
        while not (partial.exists() and rows_written(partial)[0]):
            process.stay(0.01)
        os.kill(read_holder(shard)["process"], signal.SIGKILL)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "2 jobs have ended" in out and "continuing after" in out + err
    assert command("encode", *settings, *sizes, f"run_dir={tmp_path}/alone")[0] == 0
    for number in range(2):
        alone = RunDir(tmp_path / "alone").passage_shard(number, 2)
        assert run.passage_shard(number, 2).read_bytes() == alone.read_bytes()
    with Script("encode", *settings, *sizes, *engine, "shard=7") as process:
        _, err = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "shard: 7 does not exist, num_shards=2 has 0 to 1. Correct shard. The log is in " in err
    assert "Traceback" not in err
