"""Int8: close to float32, exact sums on every CPU, and embedding files that are not mixed with others."""

import os
import subprocess
import sys

import pytest
import torch
from support.families import DECODERS, FAMILIES, save_family
from support.model_folders import load_model, passages
from support.world import WORDS
from torch import nn
from torch.nn import functional

from dpr_lightning.embeddings.file import open_embeddings
from dpr_lightning.errors import UserError
from dpr_lightning.model.inference import for_inference, resolve_precision
from dpr_lightning.model.int8 import Int8Linear

CPU = torch.device("cpu")
TEXTS = [" ".join(WORDS[i : i + 1 + i % 7]) for i in range(20)]
EXTREMES = """
import torch
from torch import nn
from dpr_lightning.model.int8 import Int8Linear

rows, weight = torch.randint(0, 2, (2, 9, 200)) * 2.0 - 1
rows[0], weight[0] = 1, 1
linear = nn.Linear(200, 9, bias=False)
linear.weight = nn.Parameter(63 * weight)
assert torch.equal(Int8Linear(linear)(127 * rows), 127 * rows @ (63 * weight).T)
"""


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_differs_by_rounding_only(bias):
    linear = nn.Linear(96, 40, bias=bias)
    states = torch.randn(3, 5, 96)
    states[1, 2] = 0
    with torch.no_grad():
        exact, ours = linear(states), Int8Linear(linear)(states)
        bound = 0.5 / 63 * linear.weight.abs().amax(1) * states.abs().sum(-1, keepdim=True)
        bound = bound + 0.51 / 127 * states.abs().amax(-1, keepdim=True) * linear.weight.abs().sum(1)
    assert ours.shape == exact.shape
    assert ((ours - exact).abs() <= bound + 1e-5).all()
    assert torch.equal(ours[1, 2], exact[1, 2])


@pytest.mark.parametrize("instructions", ["SSE41", "AVX2", "AVX512_CORE", "DEFAULT"])
def test_the_largest_sums_are_exact_on_every_cpu(instructions):
    """Products of 8 bits would saturate in 16 bits without VNNI."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    assert subprocess.run([sys.executable, "-c", EXTREMES], env=environment).returncode == 0


@pytest.mark.parametrize("kind", FAMILIES)
def test_embeddings_of_every_family_are_close_to_float32(tmp_path, kind):
    pooling = "last" if kind in DECODERS else "mean"
    bi_encoder = load_model(save_family(tmp_path, kind), pooling=pooling, passage_max_length=30)
    before, batch = bi_encoder.fingerprint(), passages(bi_encoder.inputs, TEXTS)
    with torch.inference_mode():
        exact, ours = (
            for_inference(bi_encoder.passage, device=CPU, precision=precision)(**batch) for precision in ("32", "int8")
        )
    assert functional.cosine_similarity(exact, ours).min() > 0.99
    assert not torch.equal(exact, ours)
    assert bi_encoder.fingerprint() == before


def test_a_model_without_linear_layers_is_refused(tiny_model):
    bi_encoder = load_model(tiny_model)
    for name, module in list(bi_encoder.passage.transformer.named_modules()):
        if isinstance(module, nn.Linear):
            bi_encoder.passage.transformer.set_submodule(name, nn.Identity())
    with pytest.raises(UserError, match=r"^precision: BertModel has no linear layers that int8 can replace\. Set"):
        for_inference(bi_encoder.passage, device=CPU, precision="int8")


def test_a_gpu_is_refused():
    with pytest.raises(UserError, match=r"^precision: int8 computes on a CPU only, and this machine has a GPU\. Set"):
        resolve_precision("int8", torch.device("cuda"))


def test_int8_files_are_searched_and_not_mixed_with_others(command, settings, tiny_model):
    int8 = (*settings, f"model_dir={tiny_model}", "encode.precision=int8", "num_shards=2")
    exact = (*settings, f"model_dir={tiny_model}", "num_shards=2")
    assert command("encode", *int8, "shard=0")[0] == 0
    code, _, error = command("encode", *exact)
    assert (code, error.count("\n")) == (1, 1)
    assert "is finished already with int8, not auto. Set encode.precision to int8, or set overwrite=true" in error
    assert command("encode", *int8)[0] == 0
    assert command("encode", *int8, "side=query")[0] == 0
    assert command("search", *exact)[0] == 0
    run = next(setting.removeprefix("run_dir=") for setting in settings if setting.startswith("run_dir="))
    for file in ("passage/00-of-02", "passage/01-of-02", "query/test"):
        assert open_embeddings(f"{run}/embeddings/{file}.safetensors").identity.precision == "int8"
