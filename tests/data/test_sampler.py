"""Batches of an epoch: the same global batches for any number of processes, each row at most once."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpr_lightning.data.sampler import DevBatches, TrainingBatches, spread_copies
from dpr_lightning.errors import UserError


@settings(max_examples=80, deadline=None)
@given(
    per_device=st.integers(1, 5),
    world_size=st.integers(1, 5),
    rows=st.integers(1, 90),
    epoch=st.integers(0, 9),
    seed=st.integers(0, 9),
)
def test_the_slices_of_all_processes_form_the_global_batches(per_device, world_size, rows, epoch, seed):
    together = per_device * world_size
    if rows < together:
        with pytest.raises(UserError, match=rf"^train: {rows} rows do not fill one batch of {per_device} "):
            TrainingBatches(rows, batch_size=per_device, seed=seed, world_size=world_size)
        return
    one = TrainingBatches(rows, batch_size=together, seed=seed)
    several = [
        TrainingBatches(rows, batch_size=per_device, seed=seed, global_rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for batches in [one, *several]:
        batches.set_epoch(epoch)
    slices = [list(batches) for batches in several]
    whole = list(one)
    assert [[key for part in parts for key in part] for parts in zip(*slices, strict=True)] == whole
    assert len(whole) == len(one) == len(several[-1]) == rows // together
    keys = [key for batch in whole for key in batch]
    assert len(set(keys)) == len(keys) == rows // together * together
    assert {key[0] for key in keys} == {epoch}
    assert {key[1] for key in keys} <= set(range(rows))


def rows_of(batches, epoch):
    batches.set_epoch(epoch)
    return [row for batch in batches for _, row in batch]


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [
        tuple(rows_of(TrainingBatches(50, batch_size=5, seed=seed), epoch)) for seed in range(5) for epoch in range(5)
    ]
    assert len(set(orders)) == 25


def test_copies_are_spread_as_in_the_example():
    assert spread_copies(np.array([1, 0, 2, 3]), np.array([2, 1, 1, 1])).tolist() == [1, 0, 2, 0, 3]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 99))
def test_copies_of_a_row_are_evenly_spaced(copies, seed):
    """Between two copies of a row that has c copies, any other row appears a c-th of its times, rounded."""
    positions = np.random.default_rng(seed).permutation(len(copies))
    order = spread_copies(positions, np.array(copies)).tolist()
    assert [order.count(row) for row in range(len(copies))] == copies
    for row, count in enumerate(copies):
        places = [place for place, other in enumerate(order) if other == row]
        for start, stop in itertools.pairwise(places):
            between = order[start + 1 : stop]
            for other, others in enumerate(copies):
                if other != row:
                    assert abs(between.count(other) - others / count) <= 1


def test_the_rows_dropped_differ_by_epoch():
    batches = TrainingBatches(10, batch_size=4, seed=0)
    assert len({frozenset(range(10)) - frozenset(rows_of(batches, epoch)) for epoch in range(20)}) > 10


def test_an_epoch_iterated_again_is_the_same():
    batches = TrainingBatches(20, batch_size=3, seed=1)
    assert rows_of(batches, 4) == rows_of(batches, 4) == rows_of(TrainingBatches(20, batch_size=3, seed=1), 4)


def test_an_epoch_iterated_again_after_resuming_is_complete():
    batches = TrainingBatches(20, batch_size=2, seed=1)
    batches.first_batch = 7
    assert [len(list(batches)), len(list(batches))] == [3, 10]


def test_a_new_epoch_starts_with_its_first_batch():
    batches = TrainingBatches(20, batch_size=2, seed=1)
    batches.first_batch = 7
    batches.set_epoch(0)
    assert len(list(batches)) == 3
    batches.first_batch = 7
    batches.set_epoch(1)
    assert len(list(batches)) == 10


@settings(max_examples=80, deadline=None)
@given(rows=st.integers(0, 60), batch_size=st.integers(1, 9), world_size=st.integers(1, 6))
def test_dev_rows_go_to_exactly_one_process_each(rows, batch_size, world_size):
    seen = []
    for rank in range(world_size):
        batches = DevBatches(rows, batch_size=batch_size, global_rank=rank, world_size=world_size)
        mine = list(batches)
        assert list(batches) == mine
        assert len(mine) == len(batches)
        assert all(0 < len(batch) <= batch_size for batch in mine)
        seen += [key for batch in mine for key in batch]
    assert sorted(seen) == [(0, row) for row in range(rows)]
