"""Training files with weights: how often an epoch shows each row, and that nothing else changes."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.model_folders import input_tokenizer
from support.world import training_row, write_jsonl
from transformers import AutoTokenizer

from dpr_lightning.data.datamodule import RetrievalDataModule
from dpr_lightning.data.sampler import TrainingBatches
from dpr_lightning.errors import UserError


def epoch_rows(batches, epoch):
    batches.set_epoch(epoch)
    return [row for batch in batches for _, row in batch]


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(
        st.tuples(st.integers(1, 20), st.sampled_from([0, 0.25, 0.5, 1, 1.5, 2, 3])), min_size=1, max_size=4
    ),
    epoch=st.integers(0, 5),
)
def test_an_epoch_shows_each_row_as_often_as_its_weight_says(parts, epoch):
    total = sum(round(count * weight) for count, weight in parts)
    if not total:
        return
    batches = TrainingBatches(sum(count for count, _ in parts), batch_size=1, seed=3, weights=parts)
    taken = Counter(epoch_rows(batches, epoch))
    assert len(batches) == sum(taken.values()) == total
    first = 0
    for count, weight in parts:
        times = [taken[row] for row in range(first, first + count)]
        assert sum(times) == round(count * weight)
        assert set(times) <= {int(weight), -int(-weight // 1)}
        first += count


def test_a_fraction_is_redrawn_each_epoch_reproducibly():
    batches = TrainingBatches(200, batch_size=1, seed=3, weights=[(100, 0.5), (100, 1)])
    halves = [frozenset(row for row in epoch_rows(batches, epoch) if row < 100) for epoch in range(6)]
    assert len(set(halves)) == 6
    assert frozenset.union(*halves) > halves[0]
    again = TrainingBatches(200, batch_size=1, seed=3, weights=[(100, 0.5), (100, 1)])
    assert epoch_rows(again, 4) == epoch_rows(batches, 4)


def test_copies_of_a_row_never_share_a_batch():
    batches = TrainingBatches(60, batch_size=8, seed=3, weights=[(40, 3), (20, 1)])
    for epoch in range(5):
        batches.set_epoch(epoch)
        assert all(len(set(batch)) == 8 for batch in batches)


def test_parts_are_mixed_over_the_whole_epoch():
    batches = TrainingBatches(2000, batch_size=1, seed=3, weights=[(1000, 2), (1000, 1)])
    rows = np.array(epoch_rows(batches, 0))
    shares = [(part < 1000).mean() for part in np.array_split(rows, 6)]
    assert min(shares) > 0.55 and max(shares) < 0.78  # 2/3, five standard deviations of 500 draws


def test_weights_of_one_change_nothing():
    plain = TrainingBatches(50, batch_size=4, seed=3)
    weighted = TrainingBatches(50, batch_size=4, seed=3, weights=[(20, 1), (30, 1.0)])
    assert epoch_rows(plain, 2) == epoch_rows(weighted, 2)


def test_processes_share_weighted_batches_and_resume():
    weights = [(30, 1.5), (20, 0.5)]
    one = TrainingBatches(50, batch_size=6, seed=3, weights=weights)
    two = [TrainingBatches(50, batch_size=3, seed=3, weights=weights, global_rank=r, world_size=2) for r in (0, 1)]
    for batches in (one, *two):
        batches.set_epoch(1)
    whole = list(one)
    assert [a + b for a, b in zip(*map(list, two), strict=True)] == whole
    one.first_batch = 4
    assert list(one) == whole[4:]


@pytest.fixture
def inputs(tiny_model):
    return input_tokenizer(AutoTokenizer.from_pretrained(tiny_model))


@pytest.fixture
def files(tmp_path):
    rows = [training_row(i) for i in range(12)]
    return [str(write_jsonl(tmp_path / f"{k}.jsonl", rows[k * 4 : k * 8 + 4])) for k in (0, 1)]  # 4 and 8 rows


def test_weights_go_with_the_entries_of_data_train(inputs, files):
    data = RetrievalDataModule(inputs, train=files, train_weights=[2, 0.25], batch_size=1)
    queries = [example.query for example in (data.train_examples[0, row] for row in range(12))]
    batches = list(data.train_dataloader())
    taken = Counter(int(batch.positive_docids[0, 0]) for batch in batches)
    assert sorted(taken.values()) == [1, 1, 2, 2, 2, 2]
    assert queries[0] == training_row(0)["query"] and queries[4] == training_row(4)["query"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "train_weights: 1 weights for 2 entries of `train`. Give one weight per entry."),
        ([1.0, -0.5], "train_weights: -0.5 is not a number of at least 0. Correct `train_weights`."),
        ([1.0, "x"], "train_weights: 'x' is not a number of at least 0. Correct `train_weights`."),
        ([0, 0.0], "train: 0 rows do not fill one batch of 1 questions x 1 devices."),
    ],
)
def test_wrong_weights_are_told(inputs, files, weights, message):
    with pytest.raises(UserError) as caught:
        RetrievalDataModule(inputs, train=files, train_weights=weights, batch_size=1).train_dataloader()
    assert str(caught.value).startswith(message)
