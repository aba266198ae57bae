"""Encode as many short passages as each number says, and print the process's peak memory so far after each.

Pages of mapped files do not count: the system takes them back when it needs them. The corpora are converted before, in
another process: conversion works on blocks of some MB, which the smallest corpus here does not fill.

python encode_memory.py MODEL FOLDER ROWS…
"""

import re
import subprocess
import sys
import threading
from pathlib import Path

from dpr_lightning.data.sources import open_corpus
from dpr_lightning.encoding.stage import ShardEncoder
from dpr_lightning.model.bi_encoder import load_bi_encoder

CONVERT = "import sys; from dpr_lightning.data.sources import open_corpus; list(map(open_corpus, sys.argv[1:]))"
peak_kilobytes = 0


def sample(ended):
    global peak_kilobytes
    while not ended.wait(0.02):
        resident = int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1])
        peak_kilobytes = max(peak_kilobytes, resident)


def main(model, folder, *counts):
    for count in counts:
        with (Path(folder) / f"{count}.jsonl").open("w") as file:
            file.writelines(f'{{"docid": "d{row}", "text": "bap bar"}}\n' for row in range(int(count)))
    subprocess.run([sys.executable, "-c", CONVERT, *(f"{folder}/{count}.jsonl" for count in counts)], check=True)
    ended = threading.Event()
    sampling = threading.Thread(target=sample, args=(ended,))
    sampling.start()
    bi_encoder = load_bi_encoder(model)
    del bi_encoder.passage.transformer.encoder.layer[:]  # they take most of the time, and memory that does not grow
    for count in counts:
        corpus = Path(folder) / f"{count}.jsonl"
        encoder = ShardEncoder(bi_encoder, open_corpus(str(corpus)), side="passage", precision="32", chunk_size=4096)
        encoder.encode(corpus.with_suffix(".safetensors"))
        print(peak_kilobytes, flush=True)
    ended.set()
    sampling.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
