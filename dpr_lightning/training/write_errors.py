"""Failed writes, reported with the file that could not be written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from dpr_lightning.errors import UserError


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raise UserError that names `path` if the block cannot write it; libraries often name no or another file."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path} cannot be written ({reason}). Free space or correct the permissions, then run the same command "
            "again, without overwrite=true: it resumes."
        ) from error
