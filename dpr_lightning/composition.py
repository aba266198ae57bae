"""Composes the config of a command without running it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from dpr_lightning.command_line import hydra_words, quoted, with_name


def config_folder() -> Path:
    """Return the folder of the shipped configs: in an installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    return next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir())


def composed(
    command: str, words: Sequence[str], *, config_dir: str | None = None, with_hydra: bool = False
) -> DictConfig:
    """Return the config of a command.

    Args:
        command: The name of the command.
        words: Overrides in Hydra's grammar.
        config_dir: A folder with the user's own configs.
        with_hydra: Keep the group `hydra`.

    Raises:
        HydraException, OmegaConfBaseException: The config cannot be composed.
    """
    GlobalHydra.instance().clear()
    own = [f"hydra.searchpath=[{quoted(f'file://{Path(config_dir).absolute()}')}]"] if config_dir else []
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose(command, [*words, *own], return_hydra_config=with_hydra)


def composed_values(command: str, words: Sequence[str], config_dir: str | None = None) -> dict[str, Any]:
    """Return the config of a command as plain objects, given the overrides as a user types them."""
    config = composed(command, hydra_words(with_name(list(words))), config_dir=config_dir)
    values: Any = OmegaConf.to_container(config, resolve=True)
    return dict(values)


def launcher_values(launcher: str, command: str, words: Sequence[str], config_dir: str | None = None) -> dict[str, Any]:
    """Return the settings of a launcher, an option of `hydra/launcher`, for a job of a command."""
    words = [*hydra_words(with_name(list(words))), f"hydra/launcher={launcher}"]
    settings = composed(command, words, config_dir=config_dir, with_hydra=True).hydra.launcher
    names = [name for name in settings if name != "submitit_folder"]  # which only a real sweep has
    return {str(name): settings[name] for name in names}
