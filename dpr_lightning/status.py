"""Report the progress of a run from its files and locks: which parts are finished, running, failed or missing."""

from __future__ import annotations

import contextlib
import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from dpr_lightning.call_record import read_calls
from dpr_lightning.embeddings.writer import rows_written
from dpr_lightning.files import matching
from dpr_lightning.locks import read_holder
from dpr_lightning.run_dir import RANKING_ENDINGS, RunDir, shard_name

_UNREADABLE = (OSError, ValueError, KeyError, OverflowError, MemoryError)  # a partial file renamed just now, or damaged
_SHARD = re.compile(r"(\d+)-of-(\d+)\.")


class Line(NamedTuple):
    """A part of the run, its state (`done`, `running`, `stopped`, `failed`, `missing` or a count), and details."""

    part: str
    state: str
    about: str = ""


def status(run: RunDir) -> list[Line]:
    """Return a line for the training, each set of embeddings, rankings and evaluations, and each failed call.

    Raises:
        OSError: A folder of the run cannot be read.
    """
    lines = [_training(run), *_shards("passages", run.passage_shards, ".safetensors")]
    lines += [_embeddings(f"queries {file.name.split('.')[0]}", file) for file in _outputs(run.queries)]
    for folder in matching(run.rankings, "*"):
        if folder.is_dir():
            endings = [ending for ending in RANKING_ENDINGS.values() if matching(folder, f"*{ending}")]
            for ending in endings or [".trec"]:
                lines += _shards(f"search {folder.name}", folder, ending)
    rankings = [file for ending in RANKING_ENDINGS.values() for file in matching(run.rankings, f"*{ending}")]
    writing = _holders(run.rankings)
    lines += [Line(f"ranking {file.stem}", "done") for file in rankings if file not in writing]
    lines += [Line(f"ranking {file.stem}", "running", _where(holder)) for file, holder in writing.items()]
    evaluations = [folder for folder in matching(run.evaluations, "*") if not folder.name.startswith(".")]
    lines += [Line(f"evaluation {folder.name}", "done") for folder in evaluations]
    for part, exists in (
        ("queries", _outputs(run.queries)),
        ("ranking", rankings or writing),
        ("evaluation", evaluations),
    ):
        lines += [] if exists else [Line(part, "missing")]
    return [*lines, *_failed_calls(run)]


def _training(run: RunDir) -> Line:
    if (holder := read_holder(run.model)) is not None:
        step, total = _last_step(run), holder.get("steps")
        return Line("training", "running", _progress("steps", step, total, holder.get("step_at_start"), holder))
    if run.is_trained:
        return Line("training", "done")
    if matching(run.checkpoints, "step-*.ckpt"):
        return Line("training", "stopped", f"at step {_last_step(run):,}; the same command continues")
    return Line("training", "missing")


def _last_step(run: RunDir) -> int:
    """Return the number of steps that are logged."""
    file = run.train / "metrics.csv"
    if not file.exists():
        return 0
    with file.open(newline="") as opened:
        steps = [row["step"] for row in csv.DictReader(opened) if (row["step"] or "").isdecimal()]
    return int(steps[-1]) + 1 if steps else 0


def _outputs(folder: Path) -> list[Path]:
    """Return the finished names of the embedding files in a folder, complete or partial."""
    files = matching(folder, "*.safetensors*")
    names = {file.name.removesuffix(".partial") for file in files if not file.name.startswith(".")}
    return [folder / name for name in sorted(names)]


def _shards(part: str, folder: Path, ending: str) -> list[Line]:
    """Return a line that counts the shards in a folder, and one for each that is unfinished."""
    names = [file.name.removeprefix(".") for file in matching(folder, f"*{ending}*")]
    counts = {int(match[2]) for name in names if (match := _SHARD.match(name))}
    if not counts:
        return [Line(part, "missing")]
    lines = []
    for count in sorted(counts):
        files = [folder / f"{shard_name(number, count)}{ending}" for number in range(count)]
        done = [file for file in files if file.exists()]
        unfinished = [line for file in files for line in _unfinished(file)]
        begun = {line.part.strip() for line in unfinished}
        missing = [number for number, file in enumerate(files) if not file.exists() and file.stem not in begun]
        about = f"missing: {_ranges(missing)}" if missing else ""
        lines += [Line(part, "done" if len(done) == count else f"{len(done)} of {count}", about), *unfinished]
    return lines


def _holders(folder: Path) -> dict[Path, dict[str, Any]]:
    """Return the files of a folder that processes are writing, and which process writes each."""
    names = [file.name.removeprefix(".").removesuffix(".lock") for file in matching(folder, ".*.lock")]
    holders = {folder / name: read_holder(folder / name) for name in names}
    return {file: holder for file, holder in holders.items() if holder is not None}


def _embeddings(part: str, file: Path) -> Line:
    unfinished = list(_unfinished(file))
    return unfinished[0]._replace(part=part) if unfinished else Line(part, "done")


def _unfinished(file: Path) -> Iterator[Line]:
    """Yield a line if a process is writing the file, or has begun to."""
    partial, holder = file.with_name(f"{file.name}.partial"), read_holder(file)
    done = rows = 0
    with contextlib.suppress(*_UNREADABLE):
        done, rows = rows_written(partial)
    if holder is not None:
        yield Line(f"  {file.stem}", "running", _progress("rows", done, rows, holder.get("rows_at_start"), holder))
    elif partial.exists():
        yield Line(f"  {file.stem}", "stopped", f"at {done:,} of {rows:,} rows; the same command continues")


def _progress(unit: str, done: int, total: int | None, at_start: int | None, holder: Mapping[str, Any]) -> str:
    """Return how much is done, how fast, how long it takes, where it runs and since when."""
    parts = []
    if total and at_start is not None:
        parts.append(f"{done:,} of {total:,} {unit}")
        seconds = (datetime.now().astimezone() - datetime.fromisoformat(holder["since"])).total_seconds()
        if done > at_start and seconds > 0:
            speed = (done - at_start) / seconds
            parts.append(f"{speed:,.1f} {unit}/s, {math.ceil((total - done) / speed / 60):,} min left")
    return ", ".join(filter(None, [*parts, _where(holder)]))


def _where(holder: Mapping[str, Any]) -> str:
    """Return where a process runs and since when; nothing if it is about to write that."""
    if not holder:
        return ""
    job = f", SLURM job {holder['slurm_job']}" if holder.get("slurm_job") else ""
    return f"on {holder['host']} (process {holder['process']}{job}) since {holder['since'][:16]}"


def _ranges(numbers: Iterable[int]) -> str:
    """Return ascending numbers as in `0-3, 7`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    return ", ".join("-".join(map(str, ends)) for ends in ranges)


def _failed_calls(run: RunDir) -> list[Line]:
    """Return a line for each command and part of its work whose last call has failed."""
    last: dict[tuple[str, ...], Line | None] = {}
    for call in read_calls(run.logs):
        (name, *words), end, line = call.words, call.end, None
        of_part = tuple(word for word in words if re.match(r"(shard|side|split|method)=", word))
        if name and end.get("line") and end.get("exit_code") and not end.get("is_finished"):
            line = Line(f"last call of {name}", "failed", f"{end['line']} (log: {call.log})")
        last[(name, *of_part)] = line
    return [line for line in last.values() if line is not None]
