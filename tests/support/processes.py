"""The commands as processes of their own, forked from a server that has imported the libraries already.

Importing Lightning, transformers and datasets takes longer than most tests. A process that is forked after the imports
is otherwise as real as a new one: it has its own memory, signals, locks, exit code and files, and can be killed.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.world import ROOT

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["pytorch_lightning", "transformers", "datasets", "hydra", "faiss", "peft"])


class Script:
    """A script that runs in a process group of its own; it behaves like `subprocess.Popen` in text mode."""

    def __init__(self, script, *words, folder=None, environment=None, stdin="", ranks=1):
        """Start a script, or the command of that name, in a folder and with variables added to the environment.

        With several ranks, the group has as many processes, which know one another by the variables of torchrun.
        """
        pipes = [_context.Pipe(duplex=False) for _ in range(2)]
        words = [str(script if isinstance(script, Path) else ROOT / f"{script}.py"), *map(str, words)]
        variables = {**os.environ, **(environment or {})}
        arguments = (words, str(folder or Path.cwd()), variables, stdin, *(writer for _, writer in pipes), ranks)
        self._process = _context.Process(target=_run, args=arguments)
        self._process.start()
        for _, writer in pipes:
            writer.close()
        self._pool = ThreadPoolExecutor(2)
        self._output = [self._pool.submit(_read, reader) for reader, _ in pipes]
        self._pool.shutdown(wait=False)

    @property
    def pid(self):
        """The process, which leads a group of the same number."""
        return self._process.pid

    @property
    def returncode(self):
        """The exit code, negative for a signal, or None while the process runs."""
        return self._process.exitcode

    def wait(self, timeout=None):
        """Return the exit code, or raise `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self.returncode

    def communicate(self, timeout=None):
        """Return stdout and stderr when this process and all that inherited them have closed them."""
        self.wait(timeout)
        return tuple(output.result(timeout) for output in self._output)

    def finish(self, timeout=300):
        """Return stdout, after a successful end."""
        with self:
            out, err = self.communicate(timeout)
        assert self.returncode == 0, err
        return out

    def stay(self, seconds):
        """Wait; fail with what the process has printed if it ends meanwhile."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.wait(seconds)
            pytest.fail(f"ended early with {code}: {self.communicate()}")

    def kill(self):
        """Kill the process if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self._process.join()


def _read(reader):
    with reader, os.fdopen(os.dup(reader.fileno()), errors="replace") as file:
        return file.read()


def _run(words, folder, environment, stdin, stdout, stderr, ranks):
    """Become a process that runs the script: streams, folder, environment, arguments, and at last its exit code."""
    os.setsid()
    read, write = os.pipe()
    os.write(write, stdin.encode())
    os.close(write)
    os.dup2(read, 0)
    for stream, number in ((stdout, 1), (stderr, 2)):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin = os.fdopen(0)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", 1, errors="backslashreplace")
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    others = _fork_ranks(ranks) if ranks > 1 else []
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    code = 0
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    codes = [code if isinstance(code, int) else 1, *(_exit_code(process) for process in others)]
    os._exit(next(filter(None, codes), 0))


def _fork_ranks(count):
    """Become rank 0, and fork the other ranks of a training, as torchrun would start them; return their processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GROUP_RANK": 0}
    names |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "RANK": 0, "LOCAL_RANK": 0}
    os.environ.update({name: str(value) for name, value in names.items()})
    others = []
    for rank in range(1, count):
        process = os.fork()
        if not process:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            return []
        others.append(process)
    return others


def _exit_code(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
