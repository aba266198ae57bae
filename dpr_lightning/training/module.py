"""The Lightning module: what happens in a training and in a validation step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dpr_lightning.data.collate import Batch
from dpr_lightning.model.bi_encoder import BiEncoder
from dpr_lightning.training.metrics import PoolRanking

Loss = Callable[[Tensor, Tensor, Batch], Tensor]


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
            loss: `loss(query embeddings, passage embeddings, batch)`, averaged over the batch's questions.
            optimizer: makes the optimizer of parameter groups, e.g. `partial(AdamW, lr=1e-5)`.
            scheduler: makes the per-step schedule; called with the optimizer and `total_steps`.
        """
        super().__init__()
        self.bi_encoder, self.loss = bi_encoder.train(), loss
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.ranking = PoolRanking()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of the batch, logged as `train/loss` before its update."""
        loss = self.loss(*self.bi_encoder(batch.queries, batch.passages), batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.targets))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds the batch to the pool in which the positives are ranked."""
        queries, passages = self.bi_encoder(batch.queries, batch.passages)
        self.ranking.update(queries, passages, batch.targets, batch.docids)

    def on_validation_epoch_end(self) -> None:
        """Logs `val/mean_rank`, `val/accuracy` and `val/mrr` over the whole dev set."""
        for name, value in self.ranking.compute().items():
            self.log(f"val/{name}", value, prog_bar=name == "mrr")
        self.ranking.reset()

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer, with weight decay on matrices only, and the schedule, stepped after each update."""
        optimizer = self.make_optimizer(_parameter_groups(self.bi_encoder))
        scheduler = self.make_scheduler(optimizer, total_steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    vectors = [parameter for parameter in trained if parameter.ndim < 2]  # biases and layer norms
    return [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2]},
        {"params": vectors, "weight_decay": 0.0},
    ]
