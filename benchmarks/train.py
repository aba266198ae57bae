"""Measure the cost of a training step: Lightning and a bare PyTorch loop, gradient cache and the direct step.

    python benchmarks/train.py [--train FILE] [--model FOLDER] [--repeats 5] [--steps 6]

Prints JSON lines. Times are those of complete steps (from the batch to the updated weights) of 8 questions x 2 passages
in float32. The contestants take turns within one run; a ratio is the median over the turns. The peak memory of gradient
cache is measured at two batch sizes. Needs the quickstart data, or `--train` and `--model`.
"""

import argparse
import os
import time
from functools import partial

import pytorch_lightning as pl
import torch
from common import ALL_SETTINGS, in_new_process, memory_mb, over_turns, quiet, report, report_ratio, take_turns

from dpr_lightning.data.datamodule import RetrievalDataModule
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.training.callbacks import SeededSteps, StepReport
from dpr_lightning.training.grad_cache import GradCache
from dpr_lightning.training.losses.in_batch import InBatchLoss
from dpr_lightning.training.module import RetrieverModule
from dpr_lightning.training.schedule import linear_warmup

WARM_UP = 2  # steps of each turn that are not timed
CHUNKS = GradCache(query_chunk_size=4, passage_chunk_size=8)


class Clock(pl.Callback):
    """Measures the seconds from the end of the warm-up steps to the end of the last step."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == WARM_UP:
            self.start = time.perf_counter()
        self.seconds = time.perf_counter() - getattr(self, "start", time.perf_counter())


def lightning_turn(args, steps, batch_size=8, grad_cache=None):
    """Return the seconds of our module's steps under a Trainer with the callbacks and logging of train.py."""
    bi_encoder = load_bi_encoder(args.model, explicit=ALL_SETTINGS)
    data = RetrievalDataModule(bi_encoder.inputs, train=args.train, batch_size=batch_size)
    module = RetrieverModule(
        bi_encoder,
        InBatchLoss(),
        optimizer=partial(torch.optim.AdamW, lr=1e-5, weight_decay=0.0),
        scheduler=partial(linear_warmup, warmup=0.1),
        grad_cache=grad_cache,
        gradient_clip_val=1.0,
    )
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
        gradient_clip_val=None if grad_cache else 1.0,
    ).fit(module, data)
    return clock.seconds


def bare_turn(args, steps):
    """Return the seconds of the same work in a plain loop."""
    bi_encoder = load_bi_encoder(args.model, explicit=ALL_SETTINGS).train()
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", default="data/quickstart/train.jsonl.gz")
    parser.add_argument("--model", default="data/quickstart/encoder")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--memory-of", type=int, metavar="BATCH_SIZE", help="print the peak MB of training three steps")
    args = parser.parse_args()
    quiet()
    if args.memory_of:
        lightning_turn(args, 1, args.memory_of, CHUNKS)
        print(memory_mb("VmHWM"))
        return
    contestants = {
        "bare loop": lambda: bare_turn(args, args.steps),
        "lightning": lambda: lightning_turn(args, args.steps),
        "gradient cache": lambda: lightning_turn(args, args.steps, grad_cache=CHUNKS),
    }
    seconds = take_turns(contestants, args.repeats)
    for name, turns in seconds.items():
        report(what=name, **over_turns("steps_per_s", [args.steps / turn for turn in turns]))
    for name, by in (("lightning", "bare loop"), ("gradient cache", "lightning")):
        report_ratio(f"{name} / {by}, seconds a step", seconds[name], seconds[by])
    files = ["--train", args.train, "--model", args.model]
    small, large = (in_new_process(__file__, "--memory-of", size, *files) for size in (16, 128))
    report(ratio="peak memory with gradient cache, batch 128 / 16", median=large / small, mb=[small, large])
    report(threads=torch.get_num_threads(), torch=torch.__version__, cpus=os.cpu_count())


if __name__ == "__main__":
    main()
