"""Cost of a training step: Lightning against a bare PyTorch loop, gradient cache against the direct step, its memory.

    python benchmarks/train.py [--train FILE] [--model FOLDER] [--repeats 5] [--steps 6]

Prints JSON lines. Times are of whole steps (batch fetched to weights updated) of 8 questions x 2 passages in float32;
the contestants take turns within one run, and a ratio is the median over the turns. Needs the quickstart data, or
`--train` and `--model`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pytorch_lightning as pl
import torch

from dpr_lightning.data.datamodule import RetrievalDataModule
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.training.callbacks import SeededSteps, StepReport
from dpr_lightning.training.grad_cache import make_grad_cache
from dpr_lightning.training.losses.in_batch import InBatchLoss
from dpr_lightning.training.module import RetrieverModule
from dpr_lightning.training.schedule import linear_warmup

WARM_UP = 2  # steps of each turn that are not timed


class Clock(pl.Callback):
    """Seconds from the end of the warm-up steps to the end of the last."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == WARM_UP:
            self.start = time.perf_counter()
        self.seconds = time.perf_counter() - getattr(self, "start", time.perf_counter())


def parts():
    optimizer = partial(torch.optim.AdamW, lr=1e-5, weight_decay=0.0)
    return {"loss": InBatchLoss(), "optimizer": optimizer, "scheduler": partial(linear_warmup, warmup=0.1)}


def lightning_turn(args, steps, batch_size=8, **chunks):
    """Seconds of `steps` steps by our module under a Trainer with the callbacks and logging of train.py."""
    bi_encoder = load_bi_encoder(args.model)
    data = RetrievalDataModule(bi_encoder.inputs, train=args.train, batch_size=batch_size)
    clip = {"gradient_clip_val": 1.0}
    module = RetrieverModule(bi_encoder, **parts(), grad_cache=make_grad_cache(**chunks), **clip)
    clock = Clock()
    pl.Trainer(
        accelerator="cpu",
        max_steps=WARM_UP + steps,
        callbacks=[SeededSteps(0), StepReport(), clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=500,
        limit_val_batches=0,
        **({} if chunks else clip),
    ).fit(module, data)
    return clock.seconds


def bare_turn(args, steps):
    """The same work in a plain loop."""
    bi_encoder = load_bi_encoder(args.model).train()
    data = RetrievalDataModule(bi_encoder.inputs, train=args.train, batch_size=8)
    loss, optimizer = InBatchLoss(), torch.optim.AdamW(bi_encoder.parameters(), lr=1e-5, weight_decay=0.0)
    schedule = linear_warmup(optimizer, total_steps=WARM_UP + steps)
    start = 0.0
    for number, batch in zip(range(WARM_UP + steps), data.train_dataloader(), strict=False):
        if number == WARM_UP:
            start = time.perf_counter()
        optimizer.zero_grad()
        loss(*bi_encoder(batch.queries, batch.passages), batch).backward()
        torch.nn.utils.clip_grad_norm_(bi_encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return time.perf_counter() - start


def peak_memory(args, batch_size):
    """Peak resident MB of a process that trains two steps with gradient cache in chunks of 4 questions, 8 passages."""
    command = [sys.executable, __file__, "--memory-of", str(batch_size), "--train", args.train, "--model", args.model]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["peak_mb"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", default="data/quickstart/train.jsonl.gz")
    parser.add_argument("--model", default="data/quickstart/encoder")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        lightning_turn(args, 1, args.memory_of, query_chunk_size=4, passage_chunk_size=8)
        (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(json.dumps({"peak_mb": int(peak.split()[1]) / 1024}))  # getrusage would count the parent as well
        return
    seconds = {"bare loop": [], "lightning": [], "gradient cache": []}
    for _ in range(args.repeats):
        seconds["bare loop"].append(bare_turn(args, args.steps))
        seconds["lightning"].append(lightning_turn(args, args.steps))
        seconds["gradient cache"].append(lightning_turn(args, args.steps, query_chunk_size=4, passage_chunk_size=8))
    for name, turns in seconds.items():
        steps_per_s = sorted(args.steps / turn for turn in turns)
        median = statistics.median(steps_per_s)
        print(json.dumps({"what": name, "steps_per_s": median, "spread": [steps_per_s[0], steps_per_s[-1]]}))
    for name, by in (("lightning", "bare loop"), ("gradient cache", "lightning")):
        ratios = sorted(a / b for a, b in zip(seconds[name], seconds[by], strict=True))
        print(
            json.dumps(
                {
                    "ratio": f"{name} / {by}, seconds a step",
                    "median": statistics.median(ratios),
                    "spread": [ratios[0], ratios[-1]],
                }
            )
        )
    small, large = peak_memory(args, 16), peak_memory(args, 128)
    print(
        json.dumps(
            {"ratio": "peak memory with gradient cache, batch 128 / 16", "median": large / small, "mb": [small, large]}
        )
    )
    print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, "cpus": os.cpu_count()}))


if __name__ == "__main__":
    import logging
    import warnings

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    main()
