"""What the launching command of a sweep prints when all jobs have ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from dpr_lightning.call_record import ended_jobs


class ClosingLine(Callback):
    """Prints how many jobs have ended, where their logs are, and the results of jobs on other machines."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read the record of each job's end; plans leave none."""
        if config.plan:
            return
        folder = Path(config.hydra.sweep.dir)
        lines = [job.end.get("line", "") for job in ended_jobs(folder)]
        if not config.hydra.launcher._target_.endswith((".BasicLauncher", ".JoblibLauncher")):
            print(*lines, sep="\n")
        print(f"{len(lines)} jobs have ended; their logs are in {folder}", flush=True)
