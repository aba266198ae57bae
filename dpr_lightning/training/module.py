"""The Lightning module: training step, validation step, optimizer and schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dpr_lightning.data.collate import Batch
from dpr_lightning.errors import UserError
from dpr_lightning.model.bi_encoder import BiEncoder
from dpr_lightning.training.gather import average_gradients
from dpr_lightning.training.grad_cache import GradCache, Side, cached_backward
from dpr_lightning.training.validation import PoolRanking


class RetrieverModule(pl.LightningModule):
    """Trains a bi-encoder, and the loss's own parameters if it has any, with one optimizer and one schedule.

    With gradient cache, the batch may be as large as its embeddings allow. Lightning's manual optimization then neither
    clips gradients, nor averages them over processes, nor steps the schedule; the step here does.
    """

    def __init__(
        self,
        bi_encoder: BiEncoder,
        loss: nn.Module,
        *,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        scheduler: Callable[..., LRScheduler],
        grad_cache: GradCache | None = None,
        gradient_clip_val: float | None = None,
    ) -> None:
        """Put the model into training mode, which `from_pretrained` leaves and Lightning would not set.

        Args:
            bi_encoder: The model.
            loss: Called with query embeddings [B, dim], passage embeddings [P, dim] and the batch; returns the mean
                loss over the questions of this process.
            optimizer: Makes the optimizer from parameter groups, e.g. `partial(AdamW, lr=1e-5)`.
            scheduler: Makes the per-step schedule from the optimizer and `total_steps`.
            grad_cache: The chunk sizes of gradient cache; None embeds the batch at once.
            gradient_clip_val: The largest norm of the gradient, or None for no limit. Applies with gradient cache;
                without it the Trainer clips, to its own argument of this name.

        Raises:
            UserError: `gradient_clip_val` is not a norm (to Lightning, a negative one would mean no limit).
            Exception: What `optimizer` and `scheduler` raise; they are tried at once, before any work.
        """
        super().__init__()
        if gradient_clip_val is not None and not (
            isinstance(gradient_clip_val, int | float) and gradient_clip_val >= 0
        ):
            raise UserError(
                f"gradient_clip_val: {gradient_clip_val!r} is not a norm of at least 0. "
                "Set `gradient_clip_val` to one, or to null for no limit."
            )
        self.bi_encoder, self.loss = bi_encoder.train(), loss
        self.make_optimizer: Callable[[Any], Optimizer] = optimizer
        self.make_scheduler: Callable[..., LRScheduler] = scheduler
        self.grad_cache, self.gradient_clip_val = grad_cache, gradient_clip_val
        self.automatic_optimization = grad_cache is None
        self.ranking = PoolRanking()
        scheduler(optimizer(_parameter_groups(self)), total_steps=1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of the batch, logged as `train/loss` before the update."""
        if self.grad_cache is None:
            queries, passages = self.bi_encoder(batch.queries, batch.passages)
            loss = self._loss(queries, passages, batch)
        else:
            loss = self._cached_step(batch, self.grad_cache)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.targets), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the batch to the pool in which the positives are ranked."""
        queries, passages = self.bi_encoder(batch.queries, batch.passages)
        self.ranking.update(queries, passages, batch.targets, batch.docids)

    def on_validation_epoch_end(self) -> None:
        """Log `val/mean_rank`, `val/accuracy` and `val/mrr` over the whole dev set."""
        for name, value in self.ranking.compute().items():
            self.log(f"val/{name}", value, prog_bar=name == "mrr", sync_dist=True)
        self.ranking.reset()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimizer, with weight decay on matrices only, and the schedule, stepped after each update."""
        optimizer = self.make_optimizer(_parameter_groups(self))
        scheduler = self.make_scheduler(optimizer, total_steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient under gradient cache; in 16-bit precision, Lightning has undone the loss scaling by now."""
        if self.grad_cache is not None and self.gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), self.gradient_clip_val)

    def _loss(self, queries: Tensor, passages: Tensor, batch: Batch) -> Tensor:
        """Return the loss of a batch, with a gradient (perhaps 0) for each of the loss's own parameters.

        A parameter that is used in some processes only, depending on their batches, would make the others wait for its
        gradient.
        """
        loss: Tensor = self.loss(queries, passages, batch)
        for parameter in self.loss.parameters():
            loss = loss + 0 * parameter.sum()
        return loss

    def _cached_step(self, batch: Batch, grad_cache: GradCache) -> Tensor:
        """Take one optimizer step on the whole batch, and return the loss before the update."""
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        optimizer.zero_grad()
        loss = cached_backward(
            (
                Side(self.bi_encoder.query, batch.queries, grad_cache.query_chunk_size),
                Side(self.bi_encoder.passage, batch.passages, grad_cache.passage_chunk_size),
            ),
            lambda queries, passages: self._loss(queries, passages, batch),
            self._backward,
        )
        average_gradients(list(self.parameters()))
        optimizer.step()
        scheduler.step()
        return loss

    def _backward(self, loss: Tensor) -> None:
        """Backpropagate the scaled loss outside DistributedDataParallel, which would synchronize after each chunk."""
        self.trainer.precision_plugin.pre_backward(loss, self).backward()


def _parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    vectors = [parameter for parameter in trained if parameter.ndim < 2]  # biases, layer norms, scalars of a loss
    return [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2]},
        {"params": vectors, "weight_decay": 0.0},
    ]
