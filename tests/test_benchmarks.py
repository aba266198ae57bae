"""Benchmarks run with tiny models and data, those for GPUs on a CPU, so that they do not fail when they are needed."""

import importlib
import json

import pytest
from support.processes import Script
from support.world import ROOT

TINY = {
    "gpu_train": ["--questions", "4", "--repeats", "1", "--steps", "1"],
    "gpu_encode": [],
    "gpu_bits": ["--passages", "16"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_benchmark_for_gpus_runs_on_a_cpu(tmp_path, name):
    script = ROOT / "benchmarks" / f"{name}.py"
    out = Script(script, "--tiny", *TINY[name], folder=tmp_path, environment={"PYTHONPATH": str(ROOT)}).finish()
    results = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    if name == "gpu_bits":
        assert {result["filled"] for result in results} == {False, True}
        return
    assert results[-1]["device"]
    ratios = {result["ratio"].rpartition(",")[0] for result in results if "ratio" in result}
    assert ratios >= {"gpu_train": {"direct / sentence-transformers"}, "gpu_encode": {"packed / padded"}}[name]


def test_a_process_is_measured(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    measure = importlib.import_module("scale").measure
    code = "import time; memory = bytearray(b'x' * 2**26); open('new/file', 'wb').write(b'x' * 2**20); time.sleep(0.2)"
    (tmp_path / "new").mkdir()
    measured = measure(["-c", code], tmp_path, [tmp_path / "new"])
    assert measured["written_mb"] == 1
    assert 64 < measured["own_mb"] <= measured["peak_mb"] < 200
    assert 0 < measured["cpu_s"] < measured["wall_s"]
    with pytest.raises(SystemExit, match="failed"):
        measure(["-c", "raise SystemExit(1)"], tmp_path)
