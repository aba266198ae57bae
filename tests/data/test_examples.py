"""Sampling: an example is a pure function of (seed, epoch, row), and has the right passages."""

import pickle
import random
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.world import passage, training_row, write_jsonl

from dpr_lightning.data.examples import DevExamples, TrainingExamples
from dpr_lightning.data.sources import open_training
from dpr_lightning.errors import UserError


def row(number, positives=(), negatives=()):
    """Return a checked training row with the passages of these numbers."""
    return {
        "query_id": f"q{number}",
        "query": f"query {number}",
        "answers": [],
        "positives": [passage(i) for i in positives or [number]],
        "negatives": [passage(i) for i in negatives],
    }


def docids(example):
    return [item["docid"] for item in example.passages]


ROWS = [row(i, positives=[i, 40 + i], negatives=range(100 + 10 * i, 100 + 10 * i + i % 5)) for i in range(20)]
SETTINGS = [
    {"positives": positives, "negatives": negatives, "passages_per_query": 4, "seed": 7}
    for positives in ("first", "random")
    for negatives in ("rotate", "first", "random")
]


@pytest.mark.parametrize("options", SETTINGS)
def test_an_example_depends_on_seed_epoch_and_row_alone(options):
    keys = [(epoch, place) for epoch in range(4) for place in range(20)]
    expected = {key: TrainingExamples(ROWS, **options)[key] for key in keys}
    random.Random(0).shuffle(keys)
    examples = TrainingExamples(ROWS, **options)
    random.seed(1)
    assert {key: examples[key] for key in keys} == expected
    unpickled = pickle.loads(pickle.dumps(examples))
    assert {key: unpickled[key] for key in keys} == expected


def test_examples_are_the_same_in_another_process(tmp_path):
    file = write_jsonl(tmp_path / "t.jsonl", [training_row(i, negatives=i % 4) for i in range(20)])
    options = SETTINGS[5]
    examples = TrainingExamples(open_training(str(file)).rows, **options)
    keys = [(epoch, place) for epoch in (0, 3) for place in range(20)]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(examples.__getitem__, keys)) == [examples[key] for key in keys]


def test_first_positives_stay_and_random_ones_reach_all():
    rows = [row(i, positives=[i, 50 + i, 100 + i]) for i in range(8)]
    first = TrainingExamples(rows, passages_per_query=1, positives="first")
    drawn = TrainingExamples(rows, passages_per_query=1, positives="random")
    assert all(docids(first[epoch, 3]) == ["d3"] for epoch in range(30))
    assert {docids(drawn[epoch, 3])[0] for epoch in range(60)} == {"d3", "d53", "d103"}
    assert all(drawn[epoch, 3].positive_docids == ["d3", "d53", "d103"] for epoch in range(30))


def test_negatives_first_are_the_first_in_every_epoch():
    examples = TrainingExamples([row(0, negatives=range(10, 20))], passages_per_query=4, negatives="first")
    assert all(docids(examples[epoch, 0]) == ["d0", "d10", "d11", "d12"] for epoch in range(5))


def test_random_negatives_change_by_epoch_and_reach_all():
    examples = TrainingExamples([row(0, negatives=range(10, 20))], passages_per_query=4, negatives="random")
    drawn = [docids(examples[epoch, 0])[1:] for epoch in range(60)]
    assert all(len(set(taken)) == 3 for taken in drawn)
    assert {docid for taken in drawn for docid in taken} == {f"d{i}" for i in range(10, 20)}
    assert len(set(map(tuple, drawn))) > 40


@settings(max_examples=60, deadline=None)
@given(total=st.integers(1, 12), count=st.integers(1, 12), seed=st.integers(0, 5))
def test_rotation_repeats_one_permutation(total, count, seed):
    """All epochs' negatives, written in one line, are one permutation over and over."""
    count = min(total, count)
    rows = [row(0, negatives=range(10, 10 + total))]
    examples = TrainingExamples(rows, passages_per_query=count + 1, negatives="rotate", seed=seed)
    line = [docid for epoch in range(2 * total) for docid in docids(examples[epoch, 0])[1:]]
    permutation = line[:total]
    assert sorted(permutation) == sorted(f"d{10 + i}" for i in range(total))
    assert line == (permutation * (2 * count))[: len(line)]


def test_rows_and_seeds_have_their_own_permutations():
    rows = [row(i, negatives=range(10, 30)) for i in range(6)]

    def walk(seed, place):
        examples = TrainingExamples(rows, passages_per_query=2, seed=seed)
        return tuple(docids(examples[epoch, place])[1] for epoch in range(20))

    assert len({walk(seed, place) for seed in range(4) for place in range(6)}) == 24


@pytest.mark.parametrize("negatives", ["rotate", "random"])
def test_the_next_seed_is_not_a_shifted_copy(negatives):
    """If seeds were added to rows or epochs, seed s + 1 at one row would equal seed s at the next."""
    rows = [row(i, positives=[i, 1000 + i], negatives=range(10, 40)) for i in range(12)]

    def choice(seed, epoch, place):
        options = {"passages_per_query": 6, "positives": "random", "negatives": negatives, "seed": seed}
        return [item["docid"] for item in TrainingExamples(rows, **options)[epoch, place].passages[1:]]

    for seed in (0, 41):
        for place in range(1, 12):
            assert choice(seed + 1, 2, place - 1) != choice(seed, 2, place)
            assert choice(seed + 1, 1, place) != choice(seed, 2, place)


@settings(max_examples=80, deadline=None)
@given(
    world=st.lists(
        st.tuples(st.lists(st.integers(0, 8), min_size=1, max_size=3), st.lists(st.integers(0, 12), max_size=3)),
        min_size=1,
        max_size=8,
    ),
    wanted=st.integers(1, 7),
    negatives=st.sampled_from(["rotate", "first", "random"]),
    epoch=st.integers(0, 5),
)
def test_rows_with_too_few_negatives_are_filled_from_others(world, wanted, negatives, epoch):
    rows = [row(i, positives=known, negatives=sorted(set(hard) - set(known))) for i, (known, hard) in enumerate(world)]
    examples = TrainingExamples(rows, passages_per_query=wanted, negatives=negatives)
    for place, own in enumerate(rows):
        positives = {item["docid"] for item in own["positives"]}
        hard = [item["docid"] for item in own["negatives"]]
        others = {rows[i]["positives"][0]["docid"] for i in range(len(rows)) if i != place} - positives - set(hard)
        if len(hard) + len(others) < wanted - 1:
            with pytest.raises(UserError, match=rf"^train: row {place + 1} needs {wanted - 1 - len(hard)} more"):
                examples[epoch, place]
            continue
        first, *drawn = docids(examples[epoch, place])
        assert first == own["positives"][0]["docid"]
        assert len(drawn) == len(set(drawn)) == wanted - 1
        assert not positives & set(drawn)
        assert set(drawn[: len(hard)]) <= set(hard)
        assert set(drawn[len(hard) :]) <= others


def test_filled_negatives_are_redrawn_each_epoch_from_all_rows():
    examples = TrainingExamples([row(i) for i in range(10)], passages_per_query=3)
    drawn = [tuple(docids(examples[epoch, 0])[1:]) for epoch in range(80)]
    assert {docid for taken in drawn for docid in taken} == {f"d{i}" for i in range(1, 10)}
    assert len(set(drawn)) > 30


def test_a_single_other_passage_is_found_among_many_repeats():
    """All rows but one have the same positive, and the search for the other must not depend on luck."""
    rows = [row(i, positives=[0]) for i in range(300)] + [row(300, positives=[1])]
    examples = TrainingExamples(rows, passages_per_query=2)
    assert all(docids(examples[epoch, 5]) == ["d0", "d1"] for epoch in range(10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passages_per_query": 0}, "passages_per_query: 0 is not a whole number of at least 1."),
        ({"passages_per_query": 2.0}, "passages_per_query: 2.0 is not a whole number of at least 1."),
        ({"passages_per_query": True}, "passages_per_query: True is not a whole number of at least 1."),
        ({"positives": "last"}, "positives: 'last' is not possible. Set `positives` to one of: first, random."),
        ({"negatives": None}, "negatives: None is not possible. Set `negatives` to one of: rotate, first"),
    ],
)
def test_impossible_settings_are_named(options, message):
    with pytest.raises(UserError) as caught:
        TrainingExamples([row(0)], **options)
    assert str(caught.value).startswith(message)


def test_dev_examples_have_the_first_positive_and_negatives():
    rows = [row(0, positives=[0, 50], negatives=range(10, 15))]
    assert docids(DevExamples(rows, negatives=2)[0, 0]) == ["d0", "d10", "d11"]
    assert docids(DevExamples(rows, negatives=0)[0, 0]) == ["d0"]
    assert docids(DevExamples(rows, negatives=99)[0, 0]) == ["d0", *(f"d{i}" for i in range(10, 15))]
    assert DevExamples(rows, negatives=2)[0, 0].positive_docids == ["d0", "d50"]
    with pytest.raises(UserError, match=r"^dev_negatives: -1 is not a whole number of at least 0"):
        DevExamples(rows, negatives=-1)
