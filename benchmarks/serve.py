"""Measure how many questions per second `scripts/serve.py` answers, and how long each takes.

    python benchmarks/serve.py RUN --queries FILE... [--corpus FILE...] [--clients 16] [--requests 500]

Starts the server on a free port of the loopback address. Every client asks its next question when it has the answer to
its last. Prints JSON lines, for each method with one client and with all of them: requests per second, the median and
the 95th percentile of the seconds per request, the server's CPU seconds per request, and the machine's load average.
"""

import argparse
import asyncio
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

from common import quiet, report

from dpr_lightning.data.sources import open_queries

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "serve.py"


def cpu_seconds(process):
    """Return the CPU seconds that a running process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def ask(reader, writer, target):
    """Send one request and return the seconds until its answer is complete."""
    start = time.perf_counter()
    writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    headers = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(re.search(rb"content-length: (\d+)", headers)[1]))
    assert headers.startswith(b"HTTP/1.1 200")
    return time.perf_counter() - start


async def client(port, targets):
    """Ask one question after the other over one connection, and return the seconds of each."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    seconds = [await ask(reader, writer, target) for target in targets]
    writer.close()
    return seconds


async def measure(port, targets, clients):
    """Return the seconds of all requests together, and of each one."""
    waiting, start = iter(targets), time.perf_counter()
    seconds = await asyncio.gather(*(client(port, waiting) for _ in range(clients)))
    return time.perf_counter() - start, list(itertools.chain(*seconds))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", metavar="RUN")
    parser.add_argument("--queries", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--corpus", nargs="+", default=[], metavar="FILE")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=500)
    args = parser.parse_args()
    quiet()
    questions = itertools.islice(itertools.cycle(open_queries(args.queries).rows["query"][:]), args.requests)
    words = [urllib.parse.quote(question) for question in questions]
    corpus = ["--corpus", *args.corpus] if args.corpus else []
    command = [sys.executable, SCRIPT, args.run_dir, "--port", "0", *corpus]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        address = server.stdout.readline().split()[0]
        port = urllib.parse.urlsplit(address).port
        with urllib.request.urlopen(f"{address}about") as response:
            methods = json.load(response)["methods"]
        for method, clients in itertools.product(methods, (1, args.clients)):
            targets = [f"/search?q={word}&method={method}" for word in words]
            asyncio.run(measure(port, targets[: 4 * clients], clients))  # warm up
            targets = targets if clients > 1 else targets[:100]
            before = cpu_seconds(server)
            total, seconds = asyncio.run(measure(port, targets, clients))
            report(
                method=method,
                clients=clients,
                requests=len(targets),
                requests_per_s=len(targets) / total,
                median_s=statistics.median(seconds),
                p95_s=statistics.quantiles(seconds, n=20)[-1],
                server_cpu_s=(cpu_seconds(server) - before) / len(targets),
                load=os.getloadavg()[0],
            )
        server.send_signal(signal.SIGINT)
    report(cpus=os.cpu_count())


if __name__ == "__main__":
    main()
