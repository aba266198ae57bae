"""Training in mixed precision, on the CPU in bfloat16."""

import pytest
from support.metrics import logged

CACHED = ("grad_cache.query_chunk_size=3", "grad_cache.passage_chunk_size=5")
PRECISIONS = {
    "float32": (),
    "bf16": ("trainer.precision=bf16-mixed",),
    "cached": ("trainer.precision=bf16-mixed", *CACHED),
}


def test_bf16_mixed_learns_what_float32_does(command, settings, no_dropout_model, tmp_path):
    common = [*settings, f"model.name_or_path={no_dropout_model}", "optimizer.lr=1e-3", "trainer.max_epochs=3"]
    losses = {}
    for name, overrides in PRECISIONS.items():
        code, _, err = command("train", *common, *overrides, f"run_dir={tmp_path}/{name}")
        assert code == 0, err
        losses[name] = logged(tmp_path / name, "train/loss")
    assert losses["bf16"] != losses["float32"]
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.05, abs=0.05)  # 8 bits of mantissa
    assert losses["cached"] == pytest.approx(losses["bf16"], rel=0.05, abs=0.05)
    assert losses["bf16"][-1] < losses["bf16"][0] / 2
