"""The gradient is the same however the batch is split: into chunks, over processes, or both."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from support.families import save_family
from support.processes import Script

SCRIPT = Path(__file__).with_name("gradients.py")
spec = importlib.util.spec_from_file_location("gradients", SCRIPT)
gradients = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gradients)


def largest_difference(found, expected):
    """Return the largest difference of any number, relative to the largest number of the same parameter.

    Some gradients are zero but for rounding: those of attention's key biases, which shift all logits alike, and of
    what shifts all passages alike in an untied encoder. So a parameter's largest number counts as at least a twentieth
    of the largest of all; the scalar parameters of a loss are compared as they are.
    """
    assert found.keys() == expected.keys()
    floor = max(gradient.abs().max() for name, gradient in expected.items() if gradient.ndim) / 20
    size = {name: max(g.abs().max(), floor) if g.ndim else g.abs() for name, g in expected.items()}
    return max(((found[name] - expected[name]).abs().max() / size[name]).item() for name in expected)


def in_processes(count, model, out, cases):
    """Return the gradient of each case, computed by `count` processes."""
    Script(SCRIPT, model, json.dumps(cases), out, ranks=count).finish()
    return torch.load(out)


@pytest.mark.parametrize("loss", ["in_batch", "learned_temperature"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunk_sizes", [(16, 32), (3, 5), (1, 1), (100, 100)])
def test_gradient_cache_has_the_gradient_of_the_full_batch(no_dropout_model, tied, chunk_sizes, loss):
    direct = gradients.batch_gradient(no_dropout_model, tied=tied, loss=loss)
    cached = gradients.batch_gradient(no_dropout_model, tied=tied, loss=loss, chunk_sizes=chunk_sizes)
    assert largest_difference(cached, direct) < 1e-5  # float32 sums in another order


def test_gradient_cache_replays_dropout(tiny_model):
    """With different dropout in the second pass, the gradient would not be that of any single loss."""
    first = gradients.batch_gradient(tiny_model, tied=True, chunk_sizes=(3, 5))
    assert largest_difference(gradients.batch_gradient(tiny_model, tied=True, chunk_sizes=(3, 5)), first) == 0
    bi_encoder = gradients.load_bi_encoder(tiny_model).train()
    row = gradients.check_training_row(gradients.training_row(0))
    batch = gradients.Collator(bi_encoder.inputs)([gradients.TrainingExamples([row] * 2, passages_per_query=2)[0, 0]])
    embedded = []

    def embed(**tokens):
        embedded.append(bi_encoder.passage(**tokens))
        return embedded[-1]

    side = gradients.Side(embed, batch.passages, 1)
    gradients.cached_backward((side, side), lambda q, p: (q * p).sum(), torch.Tensor.backward)
    first_pass, second_pass = embedded[:4], embedded[4:]
    assert all(torch.equal(a, b) for a, b in zip(first_pass, second_pass, strict=True))
    assert not torch.equal(first_pass[0], first_pass[2])  # the same passage under other dropout


def test_several_processes_have_the_gradient_of_one(no_dropout_model, tmp_path):
    """A loss knows neither chunks nor encoders, so two of the four cases suffice for the other losses."""
    direct, cached = {"tied": False}, {"tied": True, "chunk_sizes": (3, 5)}
    cases = [direct, cached, direct | {"tied": True}, cached | {"tied": False}]
    cases += [case | {"loss": loss} for loss in list(gradients.LOSSES)[1:] for case in (direct, cached)]
    found = in_processes(2, no_dropout_model, tmp_path / "gradients.pt", cases)
    found += in_processes(4, no_dropout_model, tmp_path / "gradients.pt", [cached])
    for case, parts in zip([*cases, cached], found, strict=True):
        direct = gradients.batch_gradient(no_dropout_model, **{**case, "chunk_sizes": None})
        assert largest_difference(parts, direct) < 1e-5, case


def test_a_decoder_has_the_same_gradient_cached_and_in_two_processes(tmp_path):
    model, case = save_family(tmp_path / "qwen3", "qwen3"), {"tied": True, "pooling": "last"}
    expected = gradients.batch_gradient(model, **case)
    for found in in_processes(2, model, tmp_path / "gradients.pt", [case, case | {"chunk_sizes": (3, 5)}]):
        assert largest_difference(found, expected) < 1e-5


@pytest.mark.parametrize("chunk_sizes", [None, (3, 5)], ids=["direct", "cached"])
def test_gradient_checkpointing_changes_no_gradient(tiny_model, chunk_sizes):
    """The recomputation repeats dropout, so the bits are the same."""
    expected = gradients.batch_gradient(tiny_model, tied=True, chunk_sizes=chunk_sizes)
    found = gradients.batch_gradient(tiny_model, tied=True, chunk_sizes=chunk_sizes, gradient_checkpointing=True)
    assert largest_difference(found, expected) == 0


def test_gradient_checkpointing_recomputes_the_layers(tiny_model):
    bi_encoder = gradients.load_bi_encoder(tiny_model, gradient_checkpointing=True)
    calls = []
    bi_encoder.query.transformer.encoder.layer[0].attention.register_forward_hook(lambda *_: calls.append(1))
    tokens = bi_encoder.inputs.pad([[2, 9, 3]])
    bi_encoder.query(**tokens).sum().backward()
    assert len(calls) == 2


LORA = {"r": 2, "alpha": 4, "dropout": 0.0, "target_modules": "all-linear"}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_gradient_cache_has_the_gradient_of_lora_adapters(no_dropout_model, tied):
    options = {"tied": tied, "lora": LORA, "gradient_checkpointing": True}
    torch.manual_seed(0)  # of the adapters
    direct = gradients.batch_gradient(no_dropout_model, **options)
    assert direct and all("lora_" in name for name in direct)
    torch.manual_seed(0)
    cached = gradients.batch_gradient(no_dropout_model, **options, chunk_sizes=(3, 5))
    assert largest_difference(cached, direct) < 1e-5
