"""train.py in two real processes learns and logs the same as in one."""

import pytest
from support.metrics import logged_rows
from support.processes import Script

COLUMNS = ("step", "train/loss", "val/mean_rank", "val/accuracy", "val/mrr")


def reported(run):
    return [[float(row[name] or -1) for name in COLUMNS] for row in logged_rows(run)]


@pytest.mark.parametrize(
    ("overrides", "ranks"),
    [
        (("data.train_weights=[1.5]",), 1),
        pytest.param(("model/lora=default", "model.lora.dropout=0.0", "model.tied=false"), 2, marks=pytest.mark.slow),
    ],
    ids=["weights, started by Lightning", "lora untied, started by torchrun"],
)
def test_two_processes_log_the_loss_and_validation_of_one(
    command, settings, no_dropout_model, tmp_path, overrides, ranks
):
    common = [
        *settings,
        f"model.name_or_path={no_dropout_model}",
        "optimizer.lr=1e-3",
        "trainer.max_epochs=2",
        *overrides,
    ]
    common += ["early_stopping.patience=5", "checkpoint.best=val/mean_rank"]
    code, _, err = command("train", *common)
    assert code == 0, err
    pair = ["trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=4", f"run_dir={tmp_path}/two"]
    Script("train", *common, *pair, ranks=ranks).finish()
    one, two = reported(tmp_path / "run"), reported(tmp_path / "two")
    assert len(one) >= 8 and len({tuple(row[2:]) for row in one}) > 2
    assert two == [pytest.approx(row, rel=1e-4) for row in one]  # sums in another order
