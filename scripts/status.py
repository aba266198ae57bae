"""Show the progress of a run: which parts are finished, running (and where), failed or missing.

    python scripts/status.py RUN [--watch]

It reads files and locks alone, so it works wherever the run folder can be read, with SLURM or without. A shard or a
training that runs is shown with its machine, its speed and the time left. --watch repeats this every ten seconds.
"""

import argparse
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpr_lightning.errors import UserError, report_user_errors
from dpr_lightning.run_dir import RunDir
from dpr_lightning.status import status

SECONDS = 10
COLOURS = {"done": "green", "running": "cyan", "stopped": "yellow", "failed": "red"}


def main() -> None:
    """Read the command line and print the table, once or again and again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN")
    parser.add_argument("--watch", action="store_true", help=f"every {SECONDS} seconds")
    args = parser.parse_args()
    with report_user_errors():
        if not args.run_dir.is_dir():
            raise UserError(f"{args.run_dir} is not a folder. Give the folder of a run, such as runs/nq.")
        console = Console()
        while True:
            table = Table(box=None, pad_edge=False)
            for column in (str(args.run_dir), "", ""):
                table.add_column(column, overflow="fold")
            failed = []
            for line in status(RunDir(args.run_dir)):
                words = Text(line.part), Text(line.state, style=COLOURS.get(line.state, "")), Text(line.about)
                if line.state == "failed":  # a long line, which ends with a path to copy
                    failed.append(Text(" ").join(words))
                else:
                    table.add_row(*words)
            if args.watch:
                console.clear()
            console.print(table)
            for text in failed:
                console.print(text, soft_wrap=True)
            if not args.watch:
                return
            time.sleep(SECONDS)


if __name__ == "__main__":
    main()
