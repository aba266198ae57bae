"""Computes the gradient of one global batch in one or several processes; run by test_gradients.

usage: gradients.py MODEL TIED CACHED OUT   (torchrun's environment variables name the process)
"""

import sys

import torch
import torch.distributed as dist
from conftest import training_row

from dpr_lightning.data.collate import Collator
from dpr_lightning.data.examples import TrainingExamples
from dpr_lightning.data.schema import check_training_row
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.training.gather import average_gradients, global_rank, world_size
from dpr_lightning.training.grad_cache import Side, cached_backward
from dpr_lightning.training.loss import InBatchLoss

QUESTIONS = 16


def batch_gradient(model, *, tied, chunk_sizes=None, temperature=1.0):
    """Gradients by parameter name after one batch of 16 questions, dealt out over the processes."""
    bi_encoder = load_bi_encoder(model, tied=tied).train()
    examples = TrainingExamples([check_training_row(training_row(i)) for i in range(QUESTIONS)], passages_per_query=2)
    per_process = QUESTIONS // world_size()
    mine = range(global_rank() * per_process, (global_rank() + 1) * per_process)
    batch = Collator(bi_encoder.inputs)([examples[0, row] for row in mine])
    loss = InBatchLoss(temperature=temperature)
    torch.manual_seed(1)
    if chunk_sizes is None:
        loss(*bi_encoder(batch.queries, batch.passages), batch).backward()
    else:
        sides = (
            Side(bi_encoder.query, batch.queries, chunk_sizes[0]),
            Side(bi_encoder.passage, batch.passages, chunk_sizes[1]),
        )
        cached_backward(sides, lambda queries, passages: loss(queries, passages, batch), torch.Tensor.backward)
    average_gradients(list(bi_encoder.parameters()))
    return {name: parameter.grad.clone() for name, parameter in bi_encoder.named_parameters()}


if __name__ == "__main__":
    model, tied, cached, out = sys.argv[1:]
    dist.init_process_group("gloo")
    gradients = batch_gradient(model, tied=tied == "tied", chunk_sizes=(3, 5) if cached == "cached" else None)
    if global_rank() == 0:
        torch.save(gradients, out)
    dist.destroy_process_group()
