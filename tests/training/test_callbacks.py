"""What is logged with a step."""

import pytest
from support.metrics import logged_rows
from support.world import training_row, write_jsonl


def test_padding_share_and_token_rate_equal_a_count_by_hand(command, settings, tmp_path):
    """Questions of 2 words, passages of a title and 3, 6, 9 or 12 words, each with 2 special tokens."""
    train = write_jsonl(tmp_path / "train.jsonl", [training_row(i) for i in range(8)])
    options = [f"data.train={train}", "data.train_weights=[2]", "data.negatives=first"]  # every batch has all rows
    code, _, err = command("train", *settings, *options, "trainer.max_epochs=2", "trainer.log_every_n_steps=2")
    assert code == 0, err
    passages = [number for i in range(8) for number in (i, i + 1)]
    tokens = 8 * (2 + 2) + sum(2 + 1 + 3 * (1 + number % 4) for number in passages)
    padded_tokens = 8 * 8 + 16 * 16  # the longest passage has 15 tokens
    rows = [row for row in logged_rows(tmp_path / "run") if row["train/padding_share"]]
    assert [int(row["step"]) for row in rows] == [1, 3]
    for row in rows:
        assert float(row["train/padding_share"]) == pytest.approx(1 - tokens / padded_tokens, rel=1e-6)
        ratio = float(row["train/tokens_per_s"]) / float(row["train/examples_per_s"])
        assert ratio == pytest.approx(tokens / 8, rel=1e-5)
    assert float(rows[1]["train/lr"]) < float(rows[0]["train/lr"])
