"""Encode the corpus for each line on stdin in a forked process; print its id, and `ended` when it has ended.

The line `go` encodes without interruption. A line `FUNCTION LINES` makes the process kill itself when it has run LINES
lines of writer.py and files.py after FUNCTION was first entered; it then prints the function in which it was.

python encode_forks.py MODEL CORPUS FILE
"""

import os
import signal
import sys
import threading
from pathlib import Path

from dpr_lightning.data.sources import open_corpus
from dpr_lightning.encoding.stage import ShardEncoder
from dpr_lightning.model.bi_encoder import load_bi_encoder


def main(model, corpus, file):
    encoder = ShardEncoder(load_bi_encoder(model), open_corpus(corpus), side="passage", precision="32", chunk_size=8)
    for order in sys.stdin:
        child = os.fork()
        if not child:
            if order != "go\n":
                kill_after(*order.split())
            encoder.encode(Path(file))
            os._exit(0)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("ended", flush=True)


def kill_after(function, lines):
    left, entered = int(lines), False

    def trace(frame, event, argument):
        nonlocal left, entered
        if not frame.f_code.co_filename.endswith(("embeddings/writer.py", "dpr_lightning/files.py")):
            return None
        entered = entered or frame.f_code.co_name == function
        left -= entered and event == "line"
        if left <= 0:
            print(frame.f_code.co_name, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)


if __name__ == "__main__":
    main(*sys.argv[1:])
