"""Load a Tevatron v1 model. Its weights and its pooler are pickles, from which only tensors are read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dpr_lightning.errors import UserError
from dpr_lightning.interop.weights import errors_of, read_weights, write_weights
from dpr_lightning.model.bi_encoder import PASSAGE_FOLDER, QUERY_FOLDER, BiEncoder, load_bi_encoder
from dpr_lightning.model.settings import Settings

_PICKLED_WEIGHTS = "pytorch_model.bin"
_DEFAULTS = Settings()


def load_tevatron(folder: Path, *, settings: Settings = _DEFAULTS) -> BiEncoder:
    """Return the bi-encoder of a folder with `pooler.pt` and `pooler_config.json`, or with neither.

    Args:
        folder: The output folder of a Tevatron training.
        settings: Lengths and separator of the training, which the folder does not tell. The folder decides whether
            encoders are tied, and on projection and normalization.

    Raises:
        UserError: The folder has no model, or a pooler that is not a linear layer for each side.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Give the output folder of a Tevatron training.")
    pooler = _pooler_config(folder)
    untied = (folder / QUERY_FOLDER).is_dir()
    try:
        settings = dataclasses.replace(
            settings,
            tied=pooler.get("tied", True) and not untied,
            normalize=pooler.get("normalize", False),
            projection_dim=pooler.get("output_dim"),
        )
    except UserError as error:
        raise UserError(f"{folder / 'pooler_config.json'}: {error}") from error
    with _without_pickles(folder) as readable, errors_of(readable, folder):
        bi_encoder = load_bi_encoder(readable, settings=settings, reads_pooler=True)
    if pooler:
        weights = read_weights(folder / "pooler.pt")
        for side, encoder in (("linear_q", bi_encoder.query), ("linear_p", bi_encoder.passage)):
            if encoder.projection is None:
                raise UserError(
                    f"{folder / 'pooler_config.json'} lacks output_dim. Copy it from the training's output."
                )
            _fill(encoder.projection, weights, side, folder / "pooler.pt")
    return bi_encoder


def _pooler_config(folder: Path) -> dict[str, Any]:
    """Return Tevatron's description of the pooler, empty if the model has none."""
    file = folder / "pooler_config.json"
    if not (folder / "pooler.pt").exists():
        return {}
    if not file.exists():
        raise UserError(f"{folder} has pooler.pt, but no pooler_config.json. Copy it from the training's output.")
    try:
        config: dict[str, Any] = {"tied": True} | json.loads(file.read_bytes())
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}). Copy it from the training's output.") from error
    return config


@contextlib.contextmanager
def _without_pickles(folder: Path) -> Iterator[Path]:
    """Yield the folder or, if its weights are pickled, a temporary one with safetensors and links to the rest."""
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
                    write_weights(read_weights(file), target / "model.safetensors")
                else:
                    (target / file.name).symlink_to(file.resolve())
        yield Path(scratch)


def _fill(projection: nn.Linear, weights: dict[str, Tensor], side: str, file: Path) -> None:
    """Copy one side's weights into the projection."""
    shapes = {name: list(weight.shape) for name, weight in weights.items()}
    needed = {f"{side}.{name}": list(weight.shape) for name, weight in projection.state_dict().items()}
    if any(shapes.get(name) != shape for name, shape in needed.items()):
        raise UserError(f"{file} has {shapes} instead of {needed}. Use pooler and model of one training.")
    projection.load_state_dict({name.removeprefix(f"{side}."): weights[name].float() for name in needed})
