"""Composes the config of a command without running it."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from dpr_lightning.command_line import hydra_words, quoted, with_name
from dpr_lightning.config_folders import config_dir_option, config_folder, own_config_folder

# How many processes a launcher starts on a machine, from trainer.devices: one unless the training asks for more.
OmegaConf.register_new_resolver("processes", lambda devices: 1 if devices == "auto" else devices, replace=True)


def composed(command: str, words: Sequence[str], *, with_hydra: bool = False) -> DictConfig:
    """Return the config of a command.

    Args:
        command: The name of the command.
        words: Overrides in Hydra's grammar, and options. `--config-dir=FOLDER` adds the user's own configs.
        with_hydra: Keep the group `hydra`.

    Raises:
        HydraException, OmegaConfBaseException: The config cannot be composed.
    """
    GlobalHydra.instance().clear()
    option, own = config_dir_option(words), own_config_folder(words)
    overrides = [word for word in words if not word.startswith("-") and word not in option]
    if own:
        overrides.append(f"hydra.searchpath=[{quoted(f'file://{own.absolute()}')}]")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose(command, overrides, return_hydra_config=with_hydra)


def composed_values(command: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the config of a command as plain objects, given overrides and options as a user types them."""
    values: Any = OmegaConf.to_container(composed(command, hydra_words(with_name(list(words)))), resolve=True)
    return dict(values)


def help_text(command: str, words: Sequence[str]) -> str:
    """Return what `--help` prints: the template `hydra.help`, filled with the composed config.

    Hydra's own `--help` also lists the options of all groups, even for a template without them, which takes seconds.

    Args:
        command: The name of the command.
        words: As for `composed`.
    """
    config = composed(command, words, with_hydra=True)
    template = string.Template(config.hydra.help.template)
    settings = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return template.substitute(CONFIG=OmegaConf.to_yaml(settings))


def launcher_values(launcher: str, command: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a launcher, an option of `hydra/launcher`, for a job of a command.

    Args:
        launcher: The option.
        command: The name of the command.
        words: Overrides and options as a user types them.
    """
    words = [*hydra_words(with_name(list(words))), f"hydra/launcher={launcher}"]
    settings = composed(command, words, with_hydra=True).hydra.launcher
    names = [name for name in settings if name != "submitit_folder"]  # which resolves only in a sweep
    return {str(name): settings[name] for name in names}
