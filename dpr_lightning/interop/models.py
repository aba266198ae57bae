"""Load the model of another program, whose kind is recognized from its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpr_lightning.errors import UserError
from dpr_lightning.interop.fair_dpr import load_dpr_folders, load_fair_checkpoint
from dpr_lightning.interop.tevatron_model import load_tevatron
from dpr_lightning.model.bi_encoder import BiEncoder
from dpr_lightning.model.settings import Settings


def load_foreign(sources: Sequence[str], *, base: str | None = None, **settings: Any) -> BiEncoder:
    """Return the bi-encoder of a DPR checkpoint (a file), of two DPR encoders, or of a Tevatron folder.

    Args:
        sources: The file, the folder, or the folders or hub names of both encoders.
        base: See `load_fair_checkpoint`.
        settings: Values of `Settings` that the sources do not tell, or that replace those of the original DPR.

    Raises:
        UserError: The sources are of none of these kinds, or as the function that reads the kind.
    """
    path = Path(sources[0])
    if len(sources) == 2:
        return load_dpr_folders(*sources, **settings)
    if len(sources) > 2:
        raise UserError(f"SOURCE: {len(sources)} are too many. Give one, or the two encoders of the original DPR.")
    if path.is_file():
        return load_fair_checkpoint(path, base=base, **settings)
    if base is not None:
        raise UserError(f"base: {base} is of no use, {path} has its own config. Leave `base` out.")
    if _is_dpr(path / "config.json"):
        raise UserError(f"{path} is one encoder of the original DPR. Give the question and the context encoder.")
    return load_tevatron(path, settings=Settings(**settings))


def _is_dpr(config: Path) -> bool:
    try:
        return bool(json.loads(config.read_bytes())["model_type"] == "dpr")
    except (OSError, ValueError, KeyError, TypeError):
        return False  # the reader of the folder reports what is wrong
