"""Measure the CPU seconds that commands and scripts need on a tiny run, which is nearly all start-up.

    python benchmarks/startup.py [--repeats 5]

Prints JSON lines, one per command, with the CPU seconds of its process: user and system time of all threads. The run
has 40 passages, 12 questions and a model of 2 layers. The commands take turns. The figure is the minimum over the
turns, because other programs can only slow a process down. The last line is what encoding and asking cannot do without:
the import of the libraries that they use.
"""

import argparse
import contextlib
import functools
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from common import quiet, report, take_turns
from support.commands import finish_run
from support.world import ROOT, question, save_tiny_model, settings_of, write_world

COMMANDS = ("train", "encode", "search", "reduce", "evaluate")
SCRIPTS = ("import_model", "ask", "serve")
LIBRARIES = "import torch, datasets; from transformers import AutoModel, AutoTokenizer, BertModel"


def make_run(folder):
    """Run all stages, print nothing, and return the run folder."""
    settings = settings_of(write_world(folder / "world"), save_tiny_model(folder / "model"), folder / "run")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return finish_run(settings, folder)


def command_lines(run):
    """Return what is measured: the words after `python`."""
    lines = [[f"{name}.py", "--help"] for name in COMMANDS]
    lines += [[f"scripts/{name}.py", "--help"] for name in SCRIPTS if (ROOT / "scripts" / f"{name}.py").exists()]
    again = [f"run_dir={run}", "overwrite=true"]
    lines += [["evaluate.py", *again], ["search.py", *again], ["encode.py", *again, "side=query"]]
    lines += [["scripts/ask.py", str(run), question(3)["query"]]]
    return [*([str(ROOT / script), *words] for script, *words in lines), ["-c", LIBRARIES]]


def cpu_seconds(words, folder):
    """Return the CPU seconds of a command that is started in a folder."""
    with subprocess.Popen([sys.executable, *words], cwd=folder, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed")
    return usage.ru_utime + usage.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HF_DATASETS_CACHE": f"{folder}/cache", "PYTHONPATH": str(ROOT)}
        run = make_run(Path(folder))
        lines = {" ".join(words): words for words in command_lines(run)}
        contestants = {line: functools.partial(cpu_seconds, words, folder) for line, words in lines.items()}
        for line, seconds in take_turns(contestants, args.repeats).items():
            name = line.replace(str(run), "RUN").replace(f"{ROOT}/", "")
            report(command=name, cpu_s=min(seconds), most=max(seconds))
    report(cpus=os.cpu_count(), load=os.getloadavg()[0], python=sys.version.split()[0])


if __name__ == "__main__":
    main()
