"""The training and validation data of one process, as Lightning wants them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from dpr_lightning.data.collate import Batch, Collator
from dpr_lightning.data.examples import DevExamples, TrainingExamples
from dpr_lightning.data.mixture import open_mixture
from dpr_lightning.data.sampler import DevBatches, TrainingBatches
from dpr_lightning.data.sources import Files, open_training
from dpr_lightning.data.tokenizer import InputTokenizer
from dpr_lightning.errors import check_at_least, check_positive


class ResumableLoader(DataLoader[Any]):
    """A loader over `TrainingBatches` that can start anew behind the batches an interrupted run had taken.

    Counts what it hands out, not what workers have fetched ahead. Lightning keeps its state in checkpoints.
    """

    batch_sampler: TrainingBatches
    _next = (0, 0)  # epoch and batch

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        epoch, taken = self.batch_sampler.epoch, self.batch_sampler.first_batch
        for batch in super().__iter__():
            taken += 1
            self._next = (epoch, taken) if taken < len(self) else (epoch + 1, 0)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Epoch and batch that come next."""
        epoch, batch = self._next
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the next iteration begin there."""
        self._next = (state["epoch"], state["batch"])
        self.batch_sampler.epoch, self.batch_sampler.first_batch = self._next


class RetrievalDataModule(pl.LightningDataModule):
    """Training batches (shuffled by seed and epoch) and, where `dev` is given, validation batches."""

    def __init__(
        self,
        inputs: InputTokenizer,
        *,
        train: Files,
        train_weights: Sequence[float] | None = None,
        dev: Files = None,
        batch_size: int = 32,
        passages_per_query: int = 2,
        positives: str = "first",
        negatives: str = "rotate",
        dev_negatives: int = 30,
        num_workers: int = 0,
        skip_invalid: bool = False,
        seed: int = 42,
    ) -> None:
        """Checks and opens the files at once, so that bad input stops before any training.

        Args:
            inputs: the model's tokenizer with its lengths.
            train: training files; see `open_training`.
            train_weights: how often an epoch sees the rows of each entry of `train`; see `TrainingBatches`.
            dev: validation files of the same form, or None for no validation.
            batch_size: questions per device.
            passages_per_query: passages per question, the positive included.
            positives: how the positive is chosen; see `TrainingExamples`.
            negatives: how hard negatives are chosen; see `TrainingExamples`.
            dev_negatives: hard negatives that each dev question puts into the validation pool, at most.
            num_workers: processes that tokenize ahead; 0 does it in the training process.
            skip_invalid: count and leave out invalid rows instead of stopping.
            seed: decides order and sampling.

        Raises:
            UserError: an invalid file, row or setting.
        """
        super().__init__()
        check_positive(batch_size, "data.batch_size")
        check_at_least(0, num_workers, "data.num_workers")
        check_at_least(0, seed, "seed")
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.collate = Collator(inputs)
        rows, self._weights = open_mixture(train, train_weights, skip_invalid=skip_invalid)
        self.train_examples = TrainingExamples(
            rows, passages_per_query=passages_per_query, positives=positives, negatives=negatives, seed=seed
        )
        self._resume_at: dict[str, int] = {}
        self.dev_examples = None
        if dev:
            dev_rows = open_training(dev, key="data.dev", skip_invalid=skip_invalid).rows
            self.dev_examples = DevExamples(dev_rows, negatives=dev_negatives)

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of `batch_size` questions."""
        batches = TrainingBatches(
            len(self.train_examples),
            batch_size=self.batch_size,
            seed=self.seed,
            weights=self._weights,
            **self._place_among_processes(),
        )
        self._train_loader = ResumableLoader(self.train_examples, batch_sampler=batches, **self._loader_options())
        if self._resume_at:
            self._train_loader.load_state_dict(self._resume_at)
        return self._train_loader

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Batches of `batch_size` questions, or nothing without dev data."""
        if self.dev_examples is None:
            return []
        batches = DevBatches(len(self.dev_examples), batch_size=self.batch_size, **self._place_among_processes())
        return DataLoader(self.dev_examples, batch_sampler=batches, **self._loader_options())

    def state_dict(self) -> dict[str, int]:
        """Where training stands in its data, for the checkpoint."""
        return self._train_loader.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the training loader start there.

        Lightning would restore the loader itself, but only one made after the checkpoint was read, and it makes the
        loader earlier to count the steps.
        """
        self._resume_at = state

    def _place_among_processes(self) -> dict[str, int]:
        if self.trainer is None:
            return {}
        return {"global_rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

    def _loader_options(self) -> dict[str, Any]:
        if self.num_workers:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # threads do not survive the fork of a worker
        return {
            "collate_fn": self.collate,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
        }
