"""The benchmarks for GPUs run on a CPU with tiny models, so that they do not fail on the day when there is a GPU."""

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
