"""What the launching command of a sweep prints when all jobs have ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class ClosingLine(Callback):
    """Prints how many jobs have ended, where their logs are, and the results of jobs on other machines."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read the record of each job's end; plans leave none."""
        if config.plan:
            return
        folder = Path(config.hydra.sweep.dir)
        files = sorted(folder.glob("*/ended.json"), key=lambda file: (len(file.parent.name), file.parent.name))
        lines = [json.loads(file.read_bytes())["line"] for file in files]
        if not config.hydra.launcher._target_.endswith((".BasicLauncher", ".JoblibLauncher")):
            print(*lines, sep="\n")
        print(f"{len(lines)} jobs have ended; their logs are in {folder}", flush=True)
