"""What can be said about a model before it is loaded: whether it can exist, and which settings its folder has saved."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path

from dpr_lightning.errors import UserError
from dpr_lightning.model.settings import SETTINGS_FILE, Settings

_HUB_NAME = re.compile(r"\w[\w.-]*(?:/[\w.-]+)?", re.ASCII)
_HUB_TIMEOUT_S = 20.0


def check_model(name_or_path: str | Path, *, settings: Settings, explicit: Collection[str] = ()) -> None:
    """Raise UserError if a model cannot be loaded, as far as neither the hub nor the weights decide it.

    Args:
        name_or_path: A hub name or a folder.
        settings: The settings that the caller wants.
        explicit: Names of settings on which the caller insists; a folder of ours must agree with them.
    """
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        if isinstance(name_or_path, Path) or not _may_be_on_hub(name_or_path):
            raise UserError(
                f"name_or_path: {name_or_path} is not a folder with a model, nor a name on the hub. Correct the path."
            )
        return
    if not any(folder.glob("config.json")) and not any(folder.glob("*/config.json")):
        raise UserError(f"name_or_path: {folder} is not a folder with a model: no config.json. Correct the path.")
    if (folder / SETTINGS_FILE).exists():
        saved_settings(folder, settings, explicit)


def _may_be_on_hub(name: str) -> bool:
    return bool(_HUB_NAME.fullmatch(name))


def is_on_this_machine(name_or_path: str | Path) -> bool:
    """Return whether a model is a folder, or has been fetched from the hub."""
    from huggingface_hub import try_to_load_from_cache

    name = str(name_or_path)
    if Path(name).expanduser().is_dir():
        return True
    return _may_be_on_hub(name) and isinstance(try_to_load_from_cache(name, "config.json"), str)


def check_hub(name: str) -> None:
    """Raise UserError at once if a model has to be fetched from a hub that cannot be reached.

    The libraries that fetch it would try again for a minute.
    """
    from huggingface_hub import constants, get_session

    if is_on_this_machine(name) or not _may_be_on_hub(name) or constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_TIMEOUT_S)
    except Exception as error:  # those of the HTTP library
        raise UserError(
            f"name_or_path: {name} is not a folder, and the hub, {constants.ENDPOINT}, cannot be reached ({error}). "
            "Check the network, or give the path of a folder."
        ) from error


def saved_settings(folder: Path, given: Settings, explicit: Collection[str]) -> Settings:
    """Return the settings of a folder of ours. Raises UserError if one on which the caller insists differs."""
    saved = Settings.load(folder)
    for name in sorted(set(explicit) & {field.name for field in fields(Settings)}):
        wanted, trained = getattr(given, name), getattr(saved, name)
        if wanted != trained:
            raise UserError(
                f"{name}: {wanted!r} contradicts {folder}, which was trained with {trained!r}. "
                f"Leave `{name}` out, or choose another model."
            )
    return saved
