"""Loads a Tevatron v1 model whole: weights and pooler are pickles there, of which tensors alone are read."""

from __future__ import annotations

import contextlib
import json
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dpr_lightning.errors import UserError
from dpr_lightning.model.bi_encoder import PASSAGE_FOLDER, QUERY_FOLDER, BiEncoder, load_bi_encoder

_PICKLED_WEIGHTS = "pytorch_model.bin"


def load_tevatron(
    folder: Path, *, query_max_length: int = 32, passage_max_length: int = 156, separator: str = " "
) -> BiEncoder:
    """The bi-encoder of a folder with `pooler.pt` and `pooler_config.json`, or without (CLS embeddings then).

    The folder does not tell lengths and separator.

    Raises:
        UserError: no model there, or a pooler that is not a linear layer for each side.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder. Give the output folder of a Tevatron training.")
    pooler: dict[str, int | bool] = {}
    if (folder / "pooler.pt").exists():
        if not (folder / "pooler_config.json").exists():
            raise UserError(f"{folder} has pooler.pt, but no pooler_config.json. Copy it from the training's output.")
        pooler = json.loads((folder / "pooler_config.json").read_text(encoding="utf-8"))
    with _without_pickles(folder) as readable:
        bi_encoder = load_bi_encoder(
            readable,
            tied=not (folder / QUERY_FOLDER).is_dir() and bool(pooler.get("tied", True)),
            normalize=bool(pooler.get("normalize", False)),
            projection_dim=pooler.get("output_dim"),
            query_max_length=query_max_length,
            passage_max_length=passage_max_length,
            separator=separator,
            reads_pooler=True,
        )
    if pooler:
        weights = _read_weights(folder / "pooler.pt")
        for side, encoder in (("linear_q", bi_encoder.query), ("linear_p", bi_encoder.passage)):
            if encoder.projection is None:
                raise UserError(
                    f"{folder / 'pooler_config.json'} lacks output_dim. Copy it from the training's output."
                )
            _fill(encoder.projection, weights, side, folder / "pooler.pt")
    return bi_encoder


@contextlib.contextmanager
def _without_pickles(folder: Path) -> Iterator[Path]:
    """The folder, or where its weights are pickled, a passing one with links to its files and safetensors instead."""
    parts = [part for part in ("", QUERY_FOLDER, PASSAGE_FOLDER) if (folder / part).is_dir()]
    if not any((folder / part / _PICKLED_WEIGHTS).exists() for part in parts):
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        for part in parts:
            target = Path(scratch) / part
            target.mkdir(exist_ok=True)
            for file in filter(Path.is_file, (folder / part).iterdir()):
                if file.name == _PICKLED_WEIGHTS:
                    weights = {name: weight.clone().contiguous() for name, weight in _read_weights(file).items()}
                    save_file(weights, target / "model.safetensors", {"format": "pt"})
                else:
                    (target / file.name).symlink_to(file.resolve())
        yield Path(scratch)


def _read_weights(file: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{file} holds more than weights, or is damaged. Export its state_dict again.") from error
    return weights


def _fill(projection: nn.Linear, weights: dict[str, Tensor], side: str, file: Path) -> None:
    found = {name: list(weight.shape) for name, weight in weights.items()}
    needed = {f"{side}.{name}": list(weight.shape) for name, weight in projection.state_dict().items()}
    if any(found.get(name) != shape for name, shape in needed.items()):
        raise UserError(f"{file} holds {found} where {needed} are needed. Give pooler and model of one training.")
    projection.load_state_dict({name.removeprefix(f"{side}."): weights[name].float() for name in needed})
