"""Make the checks of commands in a process that has not imported torch: `python mistakes.py` reads calls from stdin.

The input is JSON: the settings that all calls share, and calls, each a command and its overrides. For each call, the
first mistake that its checks find is printed, and which heavy libraries are imported by then. The config of a command
is composed once, because that takes longer than all checks.
"""

import copy
import importlib
import json
import sys
from pathlib import Path

HEAVY = ("torch", "pytorch_lightning", "transformers", "datasets")


def first_mistake(command, values, overrides):
    """Return the line that a command with these overrides would end with, or an empty string."""
    import yaml
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import read_write

    from dpr_lightning.config import Config
    from dpr_lightning.errors import UserError, error_line
    from dpr_lightning.guidance import error_message

    config = Config(copy.deepcopy(values))
    for word in overrides:
        key, _, value = word.partition("=")
        *groups, last = key.split(".")
        group = config.values
        for name in groups:
            group = group[name]
        group[last] = yaml.safe_load(value)
    with read_write(HydraConfig.get()):
        HydraConfig.get().overrides.task = overrides
    try:
        for check in importlib.import_module(f"dpr_lightning.commands.{command}").checks(config):
            check()
    except UserError as error:
        return error_line(error, lambda error: error_message(error, config, command))
    return ""


def compose_values(command, settings, folder):
    """Return the values of a command's config, and make its Hydra config the current one."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf, open_dict

    with initialize_config_dir(str(folder), version_base="1.3"):
        composed = compose(command, [*settings, "hydra.mode=RUN"], return_hydra_config=True)
    HydraConfig.instance().set_config(composed)
    with open_dict(composed):
        del composed["hydra"]
    return OmegaConf.to_container(composed, resolve=True)


def main():
    root = Path(__file__).parent.parent.parent
    sys.path.insert(0, str(root))
    request, results, current = json.load(sys.stdin), [], None
    for command, overrides in request["calls"]:
        if command != current:
            current, values = command, compose_values(command, request["settings"], root / "conf")
        mistake = first_mistake(command, values, overrides)
        results.append([mistake, [library for library in HEAVY if library in sys.modules]])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
