"""Losses at several dimensions, and embeddings that are cut to one of them."""

import dataclasses
import os

import numpy as np
import pytest
import torch
from support.metrics import logged
from torch.nn import functional

from dpr_lightning import open_embeddings
from dpr_lightning.data.collate import Batch
from dpr_lightning.searcher import Searcher
from dpr_lightning.training.losses.distillation import DistillationLoss
from dpr_lightning.training.losses.in_batch import InBatchLoss
from dpr_lightning.training.losses.learned_temperature import LearnedTemperatureLoss
from dpr_lightning.training.losses.matryoshka import MatryoshkaLoss
from dpr_lightning.training.losses.symmetric import SymmetricLoss

BATCH = Batch({}, {}, torch.arange(4) * 2, torch.arange(8), torch.arange(4)[:, None] * 2, torch.arange(8.0))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", [InBatchLoss, SymmetricLoss, LearnedTemperatureLoss, DistillationLoss])
def test_it_is_the_mean_of_the_loss_of_cut_embeddings(kind, normalize):
    generator = torch.Generator().manual_seed(0)
    queries, passages = (torch.randn(n, 6, generator=generator).requires_grad_() for n in (4, 8))
    loss = kind(temperature=0.5)
    wrapped = MatryoshkaLoss(loss, dims=[6, 3, 1], normalize=normalize)
    assert wrapped.needs_scores == kind.needs_scores
    value = wrapped(queries, passages, BATCH)
    value.backward()
    gradients = [queries.grad.clone(), passages.grad.clone(), *(p.grad.clone() for p in loss.parameters())]
    for parameter in (queries, passages, *loss.parameters()):
        parameter.grad = None
    expected = 0
    for dim in (6, 3, 1):
        cut = [queries[:, :dim], passages[:, :dim]]
        if normalize and dim < 6:
            cut = [functional.normalize(part, dim=-1) for part in cut]
        expected = expected + loss(*cut, BATCH) / 3
    expected.backward()
    torch.testing.assert_close(value, expected)
    for ours, theirs in zip(gradients, (queries, passages, *loss.parameters()), strict=True):
        torch.testing.assert_close(ours, theirs.grad)


def test_cut_embeddings_train_encode_and_search_as_another_model(settings, command, tmp_path, world):
    options = [*settings, "model.normalize=true", "loss=learned_temperature", "loss.temperature=0.1"]
    assert command("train", *options, "loss.dims=[32,8]", "trainer.max_steps=2")[0] == 0
    assert len(logged(tmp_path / "run", "train/loss")) == 2
    for words in ([], ["encode.dim=8", "encode.dtype=float16"], ["encode.dim=32"]):
        assert command("encode", *options, *words, "overwrite=true")[0] == 0
        part = open_embeddings(tmp_path / "run" / "embeddings" / "passage" / "00-of-03.safetensors")
        if not words:
            full = part
            array, fingerprint = np.array(full.array), full.identity.model_fingerprint
        elif "encode.dim=8" in words:
            expected = array[:, :8] / np.linalg.norm(array[:, :8], axis=1, keepdims=True)
            np.testing.assert_allclose(part.array, expected, atol=1e-3)  # float16
            assert part.identity.model_fingerprint == f"{fingerprint}-dim8"
            assert command("encode", *options, "side=query", *words)[0] == 0
            assert command("search", *options)[0] == 0
            found = Searcher(tmp_path / "run", corpus=str(world / "corpus.jsonl")).search(["bap dar"], depth=3)
            assert len(found[0].docids) == 3
        else:
            assert part.identity.model_fingerprint == fingerprint
            identity = dataclasses.asdict(part.identity)
            assert identity == dataclasses.asdict(full.identity), "all dimensions: the same file as without encode.dim"
    code, _, err = command("search", *options, "overwrite=true")
    assert code == 1
    assert "have 8 and 32 dimensions. Encode one again with those of the other." in err


@pytest.mark.parametrize(
    ("command_name", "word", "message"),
    [
        ("train", "loss.dims=[64]", "loss.dims: 64 is more than the 32 dimensions of the model. Lower loss.dims."),
        ("train", "loss.dims=[8,8]", "loss.dims: [8, 8] is not a list of different numbers. Correct loss.dims."),
        ("train", "loss.dims=[0]", "loss.dims: 0 is not a whole number of at least 1. Correct loss.dims."),
        ("train", "loss.dims=8", "loss.dims: 8 is not a list, each entry a whole number or null. Correct loss.dims."),
        ("encode", "encode.dim=64", "encode.dim: 64 is more than the 32 dimensions of the model. Lower encode.dim."),
    ],
)
def test_impossible_dimensions_are_refused(settings, finished_run, command, command_name, word, message):
    os.utime(finished_run)
    assert command(command_name, *settings, word, "overwrite=true") == (1, "", message + "\n")
