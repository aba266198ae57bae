"""Encodes the corpus anew for each line on stdin, in a process forked for it whose id it prints; then prints `ended`.

python encode_forks.py MODEL CORPUS FILE
"""

import os
import sys
from pathlib import Path

from dpr_lightning.data.sources import open_corpus
from dpr_lightning.encoding.encode import ShardEncoder
from dpr_lightning.model.bi_encoder import load_bi_encoder


def main(model, corpus, file):
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            encoder = ShardEncoder(
                load_bi_encoder(model), open_corpus(corpus), side="passage", precision="32", chunk_size=8
            )
            encoder.encode(Path(file))
            os._exit(0)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("ended", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
