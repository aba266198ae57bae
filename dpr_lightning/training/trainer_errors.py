"""Mistakes in the Trainer's settings that Lightning, or the start of its processes, reports as exceptions."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

from lightning_fabric.utilities.exceptions import MisconfigurationException

from dpr_lightning.errors import UserError

_LIGHTNING = ("pytorch_lightning", "lightning_fabric")


@contextlib.contextmanager
def trainer_errors() -> Iterator[None]:
    """Turn what Lightning raises at a setting into a UserError; errors raised by our own code pass."""
    try:
        yield
    except UserError:
        raise
    except MisconfigurationException as error:
        raise _user_error(error) from error
    except (ValueError, TypeError, NotImplementedError, AttributeError, RuntimeError) as error:
        frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        if any(file.endswith("multiprocessing/reduction.py") for file in frames):
            raise UserError(
                "strategy: processes that are spawned cannot take over the model and the optimizer. "
                "Set `strategy`=ddp, which starts the command again."
            ) from error
        if not any(f"/{library}/" in frames[-1] for library in _LIGHTNING):
            raise
        raise _user_error(error) from error


def _user_error(error: Exception) -> UserError:
    reason = " ".join(str(error).split()).rstrip(".")
    return UserError(f"trainer: {reason}. Choose trainer=cpu, gpu or ddp, or correct its arguments.")
