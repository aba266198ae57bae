"""Token ids and batches: lengths, padding, templates, targets and hashed docids."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.model_folders import input_tokenizer
from support.world import WORDS, passage
from transformers import AutoTokenizer

from dpr_lightning.data.collate import Collator
from dpr_lightning.data.examples import Example
from dpr_lightning.errors import UserError
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.settings import Settings

CLS, SEP, PAD = 2, 3, 0


@pytest.fixture
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def ids(text):
    """Return the expected ids; the tokenizer's vocabulary is [PAD] [UNK] [CLS] [SEP] [MASK] and the words."""
    return [5 + WORDS.index(word) for word in text.split()]


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(st.lists(st.sampled_from(WORDS), max_size=12), min_size=1, max_size=6),
    title_words=st.integers(0, 4),
    length=st.integers(3, 20),
)
def test_a_passage_is_title_space_text_cut_to_its_length(tiny_model, words, title_words, length):
    inputs = input_tokenizer(AutoTokenizer.from_pretrained(tiny_model), passage_max_length=length)
    titles, texts = [" ".join(w[:title_words]) for w in words], [" ".join(w[title_words:]) for w in words]
    expected = [[CLS, *ids(" ".join(w))[: length - 2], SEP] for w in words]
    assert inputs.encode_passages(titles, texts) == expected


def test_query_lengths_include_special_tokens(tokenizer):
    inputs = input_tokenizer(tokenizer, query_max_length=6, passage_max_length=9)
    text = " ".join(WORDS[:20])
    assert inputs.encode_queries([text, WORDS[3]]) == [[CLS, 5, 6, 7, 8, SEP], [CLS, 8, SEP]]
    assert [len(row) for row in inputs.encode_passages([""], [text])] == [9]


def test_lengths_hold_whatever_was_tokenized_before(tokenizer):
    inputs = input_tokenizer(tokenizer, query_max_length=4, passage_max_length=8)
    text = " ".join(WORDS[:20])
    for _ in range(2):
        assert [len(inputs.encode_queries([text])[0]), len(inputs.encode_passages([text], [text])[0])] == [4, 8]


def test_the_separator_appears_between_title_and_text_only(tokenizer):
    inputs = input_tokenizer(tokenizer, separator=" [SEP] ")
    encoded = inputs.encode_passages([WORDS[0], ""], [WORDS[1], WORDS[2]])
    assert encoded == [[CLS, 5, SEP, 6, SEP], [CLS, 7, SEP]]


def test_pair_makes_sentence_pairs_of_titled_passages_only(tokenizer):
    inputs = input_tokenizer(tokenizer, separator="pair", passage_max_length=7)
    titles = ["", WORDS[0], "", f"{WORDS[0]} {WORDS[1]}"]
    texts = [WORDS[1], WORDS[2], "", " ".join(WORDS[2:20])]
    assert inputs.encode_passages(titles, texts) == [
        [CLS, 6, SEP],
        [CLS, 5, SEP, 7, SEP],
        [CLS, SEP],
        [CLS, 5, 6, SEP, 7, 8, SEP],
    ]
    assert inputs.encode_passages([""], [WORDS[0]]) == [[CLS, 5, SEP]]


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6), multiple=st.sampled_from([None, 1, 8]))
def test_padding_is_on_the_right_to_the_next_multiple(tiny_model, lengths, multiple):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model, padding_side="left")
    rows = [[9] * length for length in lengths]
    inputs = input_tokenizer(tokenizer)
    assert inputs.tokenizer.padding_side == "right"  # and so it is saved with the model
    tokens = inputs.pad(rows, multiple=multiple) if multiple else inputs.pad(rows)
    width = next(width for width in range(0, 48, multiple or 8) if width >= max(lengths))
    assert tokens["input_ids"].tolist() == [row + [PAD] * (width - len(row)) for row in rows]
    assert tokens["attention_mask"].tolist() == [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    assert {name: value.dtype for name, value in tokens.items()} == dict.fromkeys(
        ["input_ids", "attention_mask"], torch.int64
    )


def test_padding_does_not_exceed_the_positions_of_the_encoder(tiny_model):
    inputs = load_bi_encoder(tiny_model, settings=Settings(query_max_length=160)).inputs
    assert inputs.most_positions == 160
    assert [inputs.pad([[9] * n], multiple=48)["input_ids"].shape[1] for n in (40, 100, 145, 160)] == [
        48,
        144,
        160,
        160,
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query_max_length": 2}, "query_max_length: 2 is not a whole number of at least 3."),
        ({"passage_max_length": 0}, "passage_max_length: 0 is not a whole number of at least 3."),
        ({"passage_max_length": 3, "separator": "pair"}, "passage_max_length: 3 is not a whole number of at"),
        ({"query_max_length": "32"}, "query_max_length: '32' is not a whole number of at least 3."),
    ],
)
def test_impossible_settings_are_named(tokenizer, options, message):
    with pytest.raises(UserError) as caught:
        input_tokenizer(tokenizer, **options)
    assert str(caught.value).startswith(message)


def test_a_tokenizer_without_padding_token_is_refused(tokenizer):
    tokenizer.pad_token = None
    with pytest.raises(UserError, match=r"^name_or_path: .*tiny-bert.* has no padding token"):
        input_tokenizer(tokenizer)


def example(number, passages, positives):
    return Example(WORDS[number], [passage(i) for i in passages], positives)


EXAMPLES = [
    example(0, [0, 10], ["d0"]),
    example(1, [1], ["d1", "d2", "d3"]),
    example(2, [2, 20, 21], ["d2"]),
]


@pytest.fixture
def batch(tokenizer):
    return Collator(input_tokenizer(tokenizer))(EXAMPLES)


def test_targets_point_at_positives_in_groups_of_any_size(batch):
    assert batch.targets.tolist() == [0, 2, 3]
    assert batch.targets.dtype == torch.int64
    for target, own in zip(batch.targets, EXAMPLES, strict=True):
        first = own.passages[0]
        row = batch.passages["input_ids"][target]
        assert row[row != PAD].tolist() == [CLS, *ids(f"{first['title']} {first['text']}"), SEP]


def test_cls_comes_first_in_every_row(batch):
    assert (batch.passages["input_ids"][:, 0] == CLS).all()
    assert (batch.queries["input_ids"][:, 0] == CLS).all()
    assert batch.queries["input_ids"].shape == (3, 8)
    assert batch.passages["input_ids"].shape[0] == 6


def test_equal_docids_and_only_those_have_equal_hashes(batch):
    names = [item["docid"] for own in EXAMPLES for item in own.passages]
    for own, hashes in zip(EXAMPLES, batch.positive_docids.tolist(), strict=True):
        known = [docid in own.positive_docids for docid in names]
        assert [value in hashes for value in batch.docids.tolist()] == known
        assert hashes[len(own.positive_docids) :] == [-1] * (3 - len(own.positive_docids))
    assert batch.docids.dtype == batch.positive_docids.dtype == torch.int64


def test_hashed_docids_are_never_minus_one_and_never_collide(tokenizer):
    docids = [str(i) for i in range(20_000)]
    passages = [{"docid": docid, "title": "", "text": ""} for docid in docids]
    hashes = Collator(input_tokenizer(tokenizer))([Example("", passages, docids)]).docids.numpy()
    assert hashes.min() >= 0
    assert len(np.unique(hashes)) == len(docids)
