"""Read pickled weights without running what else a pickle may contain, and turn foreign encoders into our folders."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dpr_lightning.errors import UserError


def read_pickle(file: Path, allowed: Sequence[tuple[Any, str]] = ()) -> Any:
    """Return the tensors and plain Python objects of a file that torch.save wrote.

    Args:
        file: The file.
        allowed: Replacements for classes and functions that the pickle may name besides those of tensors, each with
            the name that it replaces.

    Raises:
        UserError: The file names anything else, or is damaged.
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{file} contains more than weights, or is damaged. Export its state_dict again.") from error


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the weights in a safetensors file or in a pickled state_dict.

    Raises:
        UserError: As `read_pickle`, or the file is anything but a dictionary of tensors.
    """
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise UserError(f"{file} is damaged ({error}). Fetch it again.") from error
    weights = read_pickle(file)
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise UserError(f"{file} does not contain a dictionary of weights. Export its state_dict again.")
    return weights


def write_weights(weights: Mapping[str, Tensor], file: Path) -> None:
    """Write weights as safetensors, each with memory of its own."""
    save_file({name: weight.clone().contiguous() for name, weight in weights.items()}, file, {"format": "pt"})


@contextlib.contextmanager
def errors_of(temporary: Path, source: object) -> Iterator[None]:
    """In a UserError about a temporary folder, name the source that the folder was made of."""
    try:
        yield
    except UserError as error:
        message = str(error).removeprefix("name_or_path: ").replace(str(temporary), str(source))
        raise UserError(message) from error.__cause__
