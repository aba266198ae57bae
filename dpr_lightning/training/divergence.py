"""Divergence: stop a training whose loss is no longer finite, and never export its weights."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from dpr_lightning.errors import UserError, check_positive
from dpr_lightning.model.bi_encoder import BiEncoder


class StopOnDivergence(pl.Callback):
    """Stops the training when the loss of any process has not been finite for `steps` consecutive batches.

    A single such batch is harmless in mixed precision, where its update is skipped. The count stays on the device and
    is read every `steps` batches only, so that training does not wait for it.
    """

    def __init__(self, *, steps: int = 25) -> None:
        """Raise UserError for a number below 1."""
        check_positive(steps, "steps")
        self.steps = steps
        self.has_stopped = False
        self._count, self._batches = torch.zeros(()), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch, and stop all processes at the same step."""
        finite = outputs["loss"].detach().isfinite()
        self._count = (self._count.to(finite.device) + 1).where(~finite, 0.0)
        self._batches += 1
        if self._batches % self.steps == 0:
            longest: Any = trainer.strategy.reduce(self._count.clone(), reduce_op="max")
            if longest >= self.steps:
                self.has_stopped = trainer.should_stop = True


def refuse_diverged(trainer: pl.Trainer, bi_encoder: BiEncoder) -> None:
    """Raise UserError if `StopOnDivergence` has stopped the training, or if weights or embeddings are not finite."""
    problem = _not_finite(bi_encoder)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StopOnDivergence) and callback.has_stopped:
            problem = f"the loss of {callback.steps} batches in succession is not finite"
    if problem:
        raise UserError(
            f"loss: the training has diverged: at step {trainer.global_step:,}, {problem}. Likely causes are a "
            "learning rate that is too high, precision 16-true, and extreme scores of a teacher. Correct the cause and "
            "set overwrite=true to train from the start."
        )


def _not_finite(bi_encoder: BiEncoder) -> str | None:
    """Return what is not finite in a model, if anything: a weight, or an embedding because weights are too large."""
    for name, weight in bi_encoder.named_parameters():
        if not weight.isfinite().all():
            return f"the weight {name} is not finite"
    inputs, device = bi_encoder.inputs, next(bi_encoder.parameters()).device
    texts = inputs.pad(inputs.encode_queries(["a"])), inputs.pad(inputs.encode_passages(["a"], ["a"]))
    with torch.no_grad():
        embeddings = bi_encoder(*({name: ids.to(device) for name, ids in tokens.items()} for tokens in texts))
    return None if all(each.isfinite().all() for each in embeddings) else "the embedding of a text is not finite"
