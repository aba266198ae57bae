"""The Lightning module: what happens in a training and in a validation step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dpr_lightning.data.collate import Batch
from dpr_lightning.errors import UserError, check_positive
from dpr_lightning.model.bi_encoder import BiEncoder
from dpr_lightning.training.gather import average_gradients
from dpr_lightning.training.grad_cache import Side, cached_backward
from dpr_lightning.training.validation import PoolRanking


class Loss(Protocol):
    """The loss of a batch, averaged over this process's questions."""

    def check_rows(self, rows: Any) -> None:
        """Raises UserError if the training rows lack what the loss needs."""

    def __call__(self, queries: Tensor, passages: Tensor, batch: Batch) -> Tensor:
        """The loss of query embeddings [B, dim] and passage embeddings [P, dim]."""


class RetrieverModule(pl.LightningModule):
    """Trains a bi-encoder on one loss, with one optimizer and one schedule."""

    def __init__(
        self,
        bi_encoder: BiEncoder,
        loss: Loss,
        *,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        scheduler: Callable[..., LRScheduler],
    ) -> None:
        """Puts the model into training mode, which `from_pretrained` leaves and Lightning would not set.

        Args:
            bi_encoder: the model.
            loss: what to minimize.
            optimizer: makes the optimizer of parameter groups, e.g. `partial(AdamW, lr=1e-5)`.
            scheduler: makes the per-step schedule; called with the optimizer and `total_steps`.
        """
        super().__init__()
        self.bi_encoder, self.loss = bi_encoder.train(), loss
        self.make_optimizer: Callable[[Any], Optimizer] = optimizer
        self.make_scheduler: Callable[..., LRScheduler] = scheduler
        self.ranking = PoolRanking()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of the batch, logged as `train/loss` before its update."""
        queries, passages = self.bi_encoder(batch.queries, batch.passages)
        loss = self.loss(queries, passages, batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.targets), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds the batch to the pool in which the positives are ranked."""
        queries, passages = self.bi_encoder(batch.queries, batch.passages)
        self.ranking.update(queries, passages, batch.targets, batch.docids)

    def on_validation_epoch_end(self) -> None:
        """Logs `val/mean_rank`, `val/accuracy` and `val/mrr` over the whole dev set."""
        for name, value in self.ranking.compute().items():
            self.log(f"val/{name}", value, prog_bar=name == "mrr", sync_dist=True)
        self.ranking.reset()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer, with weight decay on matrices only, and the schedule, stepped after each update."""
        optimizer = self.make_optimizer(_parameter_groups(self.bi_encoder))
        scheduler = self.make_scheduler(optimizer, total_steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class GradCacheModule(RetrieverModule):
    """Trains with gradient cache: the batch may be as large as its embeddings allow.

    Lightning's manual optimization neither clips, nor steps the schedule, nor averages gradients over processes; the
    step here does.
    """

    def __init__(
        self,
        bi_encoder: BiEncoder,
        loss: Loss,
        *,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        scheduler: Callable[..., LRScheduler],
        query_chunk_size: int,
        passage_chunk_size: int,
        gradient_clip_val: float | None = None,
    ) -> None:
        """As `RetrieverModule`, and:

        Args:
            bi_encoder: the model.
            loss: the loss.
            optimizer: makes the optimizer.
            scheduler: makes the schedule.
            query_chunk_size: queries embedded at once.
            passage_chunk_size: passages embedded at once.
            gradient_clip_val: largest norm of the gradient; None for no limit. Not the Trainer's, which refuses it
                under manual optimization.
        """
        super().__init__(bi_encoder, loss, optimizer=optimizer, scheduler=scheduler)
        check_positive(query_chunk_size, "grad_cache.query_chunk_size")
        check_positive(passage_chunk_size, "grad_cache.passage_chunk_size")
        self.automatic_optimization = False
        self.query_chunk_size, self.passage_chunk_size = query_chunk_size, passage_chunk_size
        self.gradient_clip_val = gradient_clip_val

    def on_fit_start(self) -> None:
        """Refuses gradient accumulation, which the cache makes pointless."""
        if self.trainer.accumulate_grad_batches != 1:
            raise UserError(
                "trainer.accumulate_grad_batches: means nothing with gradient cache, whose batch can be of any size. "
                "Set it to 1 and raise data.batch_size."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One optimizer step on the whole batch; logs `train/loss` of before the update."""
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        optimizer.zero_grad()
        loss = cached_backward(
            (
                Side(self.bi_encoder.query, batch.queries, self.query_chunk_size),
                Side(self.bi_encoder.passage, batch.passages, self.passage_chunk_size),
            ),
            lambda queries, passages: self.loss(queries, passages, batch),
            self._backward,
        )
        average_gradients(list(self.bi_encoder.parameters()))
        optimizer.step()
        scheduler.step()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.targets), sync_dist=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clips the gradient; in 16-bit precision, Lightning has undone the loss scaling by now."""
        if self.gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.bi_encoder.parameters(), self.gradient_clip_val)

    def _backward(self, loss: Tensor) -> None:
        """Backward of the scaled loss, past DistributedDataParallel, which would synchronize after each chunk."""
        self.trainer.precision_plugin.pre_backward(loss, self).backward()


def _parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    vectors = [parameter for parameter in trained if parameter.ndim < 2]  # biases and layer norms
    return [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2]},
        {"params": vectors, "weight_decay": 0.0},
    ]
