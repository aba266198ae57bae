"""Where configs are: those that ship with the package, and the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def config_folder() -> Path:
    """Return the folder of the shipped configs: in an installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    return next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir())


def config_dir_option(words: Sequence[str]) -> list[str]:
    """Return the words of a command line that name a folder of the user's own configs, as `--config-dir FOLDER`."""
    for option in ("--config-dir", "-cd"):
        for position, word in enumerate(words):
            if word == option:
                return list(words[position : position + 2])
            if word.startswith(f"{option}="):
                return [word]
    return []


def own_config_folder(words: Sequence[str]) -> Path | None:
    """Return the folder of the user's own configs, if a command line names one."""
    option = config_dir_option(words)
    return Path(option[-1].partition("=")[2] or option[-1]) if option else None


def experiment_file(experiment: str, words: Sequence[str]) -> Path | None:
    """Return the file of an experiment, the user's own first; None if it does not exist."""
    folders = [folder for folder in (own_config_folder(words), config_folder()) if folder]
    files = [folder / "experiment" / f"{experiment}.yaml" for folder in folders]
    return next((file for file in files if file.is_file()), None)
