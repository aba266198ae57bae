"""Run a whole experiment, from training data to figures: train, encode, search, evaluate.

    python scripts/replicate.py EXPERIMENT [KEY=VALUE...] [--config-dir FOLDER]
    python scripts/replicate.py EXPERIMENT [KEY=VALUE...] --slurm [--gpu-launcher NAME] [--cpu-launcher NAME]

EXPERIMENT is a file of conf/experiment/; without one, give data=files and the files. Each KEY=VALUE goes to every
command that understands it. On this machine, the commands run one after another. With --slurm, all jobs are submitted
at once and start after one another: prepare, train, a job per shard that encodes, queries, a job per shard that
searches, finish (merge and evaluate). Their resources are those of conf/hydra/launcher/slurm_gpu.yaml and
slurm_cpu.yaml: set partition and account there, or with hydra.launcher.partition=….

Run it again after a failure: it does only the missing work, and refuses output that was finished with other settings.
scripts/status.py shows the progress.
"""

import argparse
import contextlib
import shlex
import subprocess
import sys
from collections.abc import Callable

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from dpr_lightning.arguments import Arguments
from dpr_lightning.composition import composed_values, launcher_values
from dpr_lightning.errors import UserError, report_user_errors
from dpr_lightning.guidance import error_message
from dpr_lightning.job_graph import submit
from dpr_lightning.replication import Job, Replication
from dpr_lightning.training_config import check_finished_training


def main() -> None:
    """Read the command line, and run the commands or submit the jobs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="+", metavar="EXPERIMENT|KEY=VALUE")
    parser.add_argument("--slurm", action="store_true", help="submit jobs to SLURM")
    parser.add_argument("--gpu-launcher", default="slurm_gpu", metavar="NAME", help="resources of train and encode")
    parser.add_argument("--cpu-launcher", default="slurm_cpu", metavar="NAME", help="resources of the other jobs")
    parser.add_argument("--config-dir", metavar="FOLDER", help="your own configs, as for every command")
    args = parser.parse_intermixed_args()
    words = [word if "=" in word else f"experiment={word}" for word in args.words]
    for_launcher = [word for word in words if word.lstrip("+").startswith("hydra.")]
    words = [word for word in words if word not in for_launcher]
    mistakes = (HydraException, OmegaConfBaseException)
    with report_user_errors(*mistakes, message=lambda error: error_message(error, Arguments({}), "train")):
        options = [f"--config-dir={args.config_dir}"] if args.config_dir else []
        replication = Replication(words, composed_values("train", [*options, *words]), options)
        if not args.slurm and for_launcher:
            raise UserError(f"{for_launcher[0].partition('=')[0]}: it is for jobs. Give --slurm, or leave it out.")
        if not args.slurm:
            sys.exit(_run(replication))

        def settings(job: Job) -> dict:
            launcher = args.gpu_launcher if job.is_gpu_job else args.cpu_launcher
            command = "train" if job.name == "train" else "encode"  # every other command runs in one process
            return launcher_values(launcher, command, [*options, *(words * (command == "train")), *for_launcher])

        _submit(replication, settings)


def _run(replication: Replication) -> int:
    """Run the commands one after another, and return the exit code of the first that fails, or 0."""
    for command in replication.in_sequence():
        print(f"$ python {command.name}.py {shlex.join(command.overrides)}", flush=True)
        words = [sys.executable, "-m", f"dpr_lightning.commands.{command.name}", *command.overrides]
        if code := _wait_for(subprocess.Popen(words)):
            return code
    return 0


def _wait_for(process: subprocess.Popen) -> int:
    """Return the exit code of a command. Ctrl-C reaches it too, and it takes its time to save a checkpoint."""
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return process.wait()


def _submit(replication: Replication, settings: Callable[[Job], dict]) -> None:
    """Submit the jobs that are still to be done, and print them."""
    check_finished_training(replication.config, replication.run)
    jobs, logs = replication.as_jobs(), replication.run.logs / "slurm"
    numbers = submit(jobs, logs, settings)
    table = Table("job", "number", "starts after")
    for job in jobs:
        count = f" ({len(job.array)} shards)" if job.array else ""
        after = ", ".join(f"{kind} {name}" for kind, names in job.after.items() for name in names)
        table.add_row(f"{job.name}{count}", numbers[job.name], after)
    Console().print(table)
    print(f"logs: {logs}; progress: python scripts/status.py {replication.run.path}")
    print(f"to cancel all: scancel {' '.join(numbers.values())}")


if __name__ == "__main__":
    main()
