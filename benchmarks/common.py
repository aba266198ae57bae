"""What the benchmarks share: interleaved turns, medians and ratios over the turns, peak memory, JSON lines."""

import json
import logging
import statistics
import subprocess
import sys
import time
import warnings
from dataclasses import fields
from pathlib import Path

from dpr_lightning.model.settings import Settings

ALL_SETTINGS = [field.name for field in fields(Settings)]  # `explicit`, so that the folder of the model has no say


def quiet():
    """Silence warnings and log messages, so that only results are printed."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def timed(function, wait=None):
    """Return the seconds that a call takes, and its result.

    Args:
        function: Called without arguments.
        wait: Called before and after, to wait for a device's pending work.
    """
    if wait:
        wait()
    start = time.perf_counter()
    result = function()
    if wait:
        wait()
    return time.perf_counter() - start, result


def take_turns(contestants, repeats):
    """Call the contestants in rotation, so that drift of the machine affects all alike; return each one's results."""
    turns = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            turns[name].append(contestant())
    return turns


def report(**values):
    """Print one result as a JSON line, floats with five significant digits."""
    print(json.dumps(_rounded(values)), flush=True)


def _rounded(value):
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def over_turns(key, values):
    """Return the median of values under `key`, and their spread, for `report`."""
    return {key: statistics.median(values), "spread": [min(values), max(values)]}


def report_ratio(ratio, numerators, denominators, **about):
    """Report the median over the turns of the quotient of two contestants, and its spread."""
    quotients = [a / b for a, b in zip(numerators, denominators, strict=True)]
    report(**about, ratio=ratio, **over_turns("median", quotients))


def memory_mb(field):
    """Return the resident memory of this process: VmRSS is the current one, VmHWM the peak.

    `getrusage` would include the peak of the parent process.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def in_new_process(file, *words):
    """Run a benchmark file with other arguments and return the number that it prints."""
    command = [sys.executable, file, *map(str, words)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
