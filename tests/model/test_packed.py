"""Packed sequences have the embeddings of padded batches, whatever their neighbours."""

import copy
import logging
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.world import WORDS
from transformers import AutoConfig, AutoModel

from dpr_lightning.model.encoder import Encoder
from dpr_lightning.model.packed import ARCHITECTURES, PackedEncoder, packed_if_supported
from dpr_lightning.model.pooling import POOLING
from dpr_lightning.model.settings import Settings

PAD, LONGEST = 1, 156
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def make_encoder(kind="bert", **options):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=5 + len(WORDS),
        max_position_embeddings=LONGEST + 2,
        pad_token_id=PAD,
        initializer_range=0.2,
        **({"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48} if kind == "distilbert" else SIZES),
    )
    return Encoder(AutoModel.from_config(config), Settings(**options)).eval()


def draw_ids(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, 5 + len(WORDS), (length,), generator=generator).tolist() for length in lengths]


def padded(encoder, ids, device="cpu"):
    tensors = [torch.tensor(row, device=device) for row in ids]
    input_ids = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=PAD)
    lengths = torch.tensor([len(row) for row in ids], device=device)
    with torch.inference_mode():
        return encoder(input_ids, (torch.arange(input_ids.shape[1], device=device) < lengths[:, None]).long())


def packed(encoder, ids, device="cpu"):
    encoder = PackedEncoder(copy.deepcopy(encoder))
    batch = {name: value.to(device) if name != "max_length" else value for name, value in encoder.pack(ids).items()}
    with torch.inference_mode():
        return encoder(**batch)


@pytest.mark.parametrize("pooling", POOLING)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_packed_and_padded_embeddings_are_equal(kind, pooling):
    encoder, ids = make_encoder(kind, pooling=pooling), draw_ids([2, LONGEST, 17, 2, 90, 33])
    expected = padded(encoder, ids)
    assert expected.std() > 0.1
    torch.testing.assert_close(packed(encoder, ids), expected, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(2, LONGEST), min_size=1, max_size=8),
    st.sampled_from(sorted(POOLING)),
    st.sampled_from([None, 7]),
    st.booleans(),
)
def test_packing_works_for_any_lengths_and_settings(lengths, pooling, projection_dim, normalize):
    encoder = make_encoder(pooling=pooling, projection_dim=projection_dim, normalize=normalize)
    found = packed(encoder, draw_ids(lengths))
    assert found.shape == (len(lengths), encoder.dim)
    torch.testing.assert_close(found, padded(encoder, draw_ids(lengths)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLING)
def test_packing_in_bf16_adds_no_more_than_rounding(pooling):
    encoder, ids = make_encoder(pooling=pooling), draw_ids([2, LONGEST, 17, 90])
    exact, half = padded(encoder, ids), copy.deepcopy(encoder).to(torch.bfloat16)
    found = packed(half, ids)
    assert found.dtype == torch.bfloat16
    rounding = (padded(half, ids).float() - exact).abs().max()
    assert (found.float() - exact).abs().max() <= 2 * rounding


def test_sequences_do_not_see_their_neighbours():
    encoder = make_encoder()
    first, own, last, others = draw_ids([20, 30, 40, 25])
    alone, between, elsewhere = (packed(encoder, ids) for ids in ([own], [first, own, last], [others, own, others]))
    torch.testing.assert_close(between[1], alone[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(elsewhere[1], alone[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("missing", [0, 1, 30, 95])
def test_filling_up_appends_sequences(missing):
    encoder, ids = PackedEncoder(make_encoder()), draw_ids([20, 30, 40])
    batch = encoder.pack(ids, fill_to=90 + missing)
    with torch.inference_mode():
        found, expected = encoder(**batch)[:3], encoder(**encoder.pack(ids))
    assert batch["input_ids"].numel() == 90 + missing and batch["max_length"] == 40
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert encoder.pack(ids, fill_to=7)["input_ids"].numel() == 90


@on_gpu
@pytest.mark.gpu
def test_a_gpu_gives_a_text_the_same_bits_in_every_batch():
    torch.manual_seed(0)
    lengths = torch.randint(2, LONGEST, (300,)).tolist()
    encoder, ids = PackedEncoder(make_encoder().to("cuda", torch.bfloat16)), draw_ids(lengths)

    def embed(rows):
        batch = encoder.pack([ids[row] for row in rows], fill_to=8192)
        with torch.inference_mode():
            return encoder(**{k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in batch.items()})

    alone = torch.cat([embed([row])[:1] for row in range(300)])
    for order in (torch.arange(300), torch.randperm(300)):
        for rows in order.split(50):
            assert torch.equal(embed(rows.tolist())[: len(rows)], alone[rows])


def test_an_encoder_that_cannot_pack_says_why_once(caplog):
    caplog.set_level(logging.INFO)
    encoder = make_encoder().to("meta")
    assert packed_if_supported(encoder) is packed_if_supported(encoder) is encoder
    reasons = [record.getMessage() for record in caplog.records]
    assert reasons == ["batches are padded: packing needs a GPU, this is meta"]


def test_packing_a_copy_leaves_the_encoder_as_it_was():
    encoder, ids = make_encoder(), draw_ids([5, 9])
    before = padded(encoder, ids)
    packed(encoder, ids)
    assert torch.equal(padded(encoder, ids), before)


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("pooling", POOLING)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_gpu_packs_within_rounding(kind, dtype, pooling):
    encoder, ids = make_encoder(kind, pooling=pooling), draw_ids([2, LONGEST, 17, 2, 90, 33])
    exact, half = padded(encoder, ids), copy.deepcopy(encoder).to("cuda", dtype)
    rounding = (padded(half, ids, "cuda").float().cpu() - exact).abs().max()
    assert isinstance(packed_if_supported(copy.deepcopy(half)), PackedEncoder)
    assert (packed(half, ids, "cuda").float().cpu() - exact).abs().max() <= 2 * rounding


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("kind", "dtype", "reason"),
    [
        ("bert", torch.float32, "packing needs bf16 or 16 as precision, this is torch.float32"),
        ("albert", torch.bfloat16, "packing supports bert, camembert, .*, not albert"),
    ],
)
def test_a_gpu_says_why_it_pads(caplog, kind, dtype, reason):
    caplog.set_level(logging.INFO)
    encoder = make_encoder(kind).to("cuda", dtype)
    assert packed_if_supported(encoder) is encoder
    assert re.search(reason, caplog.text)
