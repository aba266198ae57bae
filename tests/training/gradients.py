"""Compute the gradient of one global batch in one or several processes; run by test_gradients.

usage: gradients.py MODEL CASES OUT   (CASES: a JSON list of options; torchrun's environment variables name the process)
"""

import json
import sys

import torch
import torch.distributed as dist
from support.world import passage, training_row

from dpr_lightning.data.collate import Collator
from dpr_lightning.data.examples import TrainingExamples
from dpr_lightning.data.schema import check_training_row
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.settings import Settings
from dpr_lightning.training.gather import average_gradients, global_rank, world_size
from dpr_lightning.training.grad_cache import Side, cached_backward
from dpr_lightning.training.losses.distillation import DistillationLoss
from dpr_lightning.training.losses.in_batch import InBatchLoss
from dpr_lightning.training.losses.learned_temperature import LearnedTemperatureLoss
from dpr_lightning.training.losses.symmetric import SymmetricLoss

QUESTIONS = 16
LOSSES = {
    "in_batch": InBatchLoss,
    "symmetric": SymmetricLoss,
    "distillation": DistillationLoss,
    "learned_temperature": LearnedTemperatureLoss,
}


def row(number):
    """Return a training row; two of three have scores, and two questions know a positive of another question."""
    row = training_row(number)
    if number in (1, 4):
        row["positive_passages"].append(passage(number + 2))
    if number % 3:
        count = len(row["positive_passages"]) + len(row["negative_passages"])
        row["scores"] = [number * 0.7 - i * i for i in range(count)]
    return row


def batch_gradient(model, *, tied, pooling="cls", chunk_sizes=None, loss="in_batch", **options):
    """Return gradients by parameter name after one batch of 16 questions, split over the processes."""
    model = load_bi_encoder(model, settings=Settings(tied=tied, pooling=pooling), **options).train()
    modules = torch.nn.ModuleDict({"model": model, "loss": LOSSES[loss]()})
    bi_encoder, compute = modules["model"], modules["loss"]
    examples = TrainingExamples([check_training_row(row(i)) for i in range(QUESTIONS)], passages_per_query=2)
    per_process = QUESTIONS // world_size()
    mine = range(global_rank() * per_process, (global_rank() + 1) * per_process)
    batch = Collator(bi_encoder.inputs)([examples[0, row] for row in mine])
    torch.manual_seed(1)
    if chunk_sizes is None:
        compute(*bi_encoder(batch.queries, batch.passages), batch).backward()
    else:
        sides = (
            Side(bi_encoder.query, batch.queries, chunk_sizes[0]),
            Side(bi_encoder.passage, batch.passages, chunk_sizes[1]),
        )
        cached_backward(sides, lambda queries, passages: compute(queries, passages, batch), torch.Tensor.backward)
    average_gradients(list(modules.parameters()))
    return {name: p.grad.clone() for name, p in modules.named_parameters() if p.requires_grad}


if __name__ == "__main__":
    model, cases, out = sys.argv[1:]
    dist.init_process_group("gloo")
    gradients = [batch_gradient(model, **options) for options in json.loads(cases)]
    if global_rank() == 0:
        torch.save(gradients, out)
    dist.destroy_process_group()
