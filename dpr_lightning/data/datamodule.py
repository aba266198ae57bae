"""The training and validation data of one process, as a Lightning data module."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from dpr_lightning.data.checks import check_loading
from dpr_lightning.data.collate import Batch, Collator
from dpr_lightning.data.examples import DevExamples, TrainingExamples
from dpr_lightning.data.mixture import open_mixture
from dpr_lightning.data.sampler import DevBatches, TrainingBatches
from dpr_lightning.data.sources import Files, open_training
from dpr_lightning.data.tokenizer import InputTokenizer


class ResumableLoader(DataLoader[Any]):
    """A loader over `TrainingBatches` that can resume after the batches that an interrupted run had consumed.

    It counts the batches that it returned, not those that workers have prefetched. Lightning saves its state.
    """

    batch_sampler: TrainingBatches
    _next = (0, 0)  # epoch and batch of the next batch

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        epoch, taken = self.batch_sampler.epoch, self.batch_sampler.first_batch
        for batch in super().__iter__():
            taken += 1
            self._next = (epoch, taken) if taken < len(self) else (epoch + 1, 0)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of the next batch."""
        epoch, batch = self._next
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration at a saved state."""
        self._next = (state["epoch"], state["batch"])
        self.batch_sampler.epoch, self.batch_sampler.first_batch = self._next


class RetrievalDataModule(pl.LightningDataModule):
    """Training batches, shuffled by seed and epoch, and validation batches if `dev` is given.

    `fingerprints` has the number of rows and their fingerprint for `train` and `dev`.
    """

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
        format: str | None = None,
        corpus: Files = None,
        queries: Mapping[str, Files] | None = None,
        seed: int = 42,
    ) -> None:
        """Open and check the files at once, so that bad input is reported before training starts.

        Args:
            inputs: The model's tokenizer.
            train: Training files; see `open_training`.
            train_weights: How often an epoch shows the rows of each entry of `train`; see `TrainingBatches`.
            dev: Validation files in the same format; None for no validation.
            batch_size: Questions per device.
            passages_per_query: Passages per question, including its positive.
            positives: How the positive is chosen; see `TrainingExamples`.
            negatives: How hard negatives are chosen; see `TrainingExamples`.
            dev_negatives: Maximum number of hard negatives that a dev question adds to the validation pool.
            num_workers: Processes that prefetch and tokenize; 0 tokenizes in the training process.
            skip_invalid: Count and skip invalid rows instead of raising.
            format: Layout of the files; None recognizes it.
            corpus: Passages that training files name only by their ids.
            queries: By split (`train`, `dev`), queries that training files name only by their ids.
            seed: Determines order and sampling.

        Raises:
            UserError: A file, a row or a setting is invalid.
        """
        super().__init__()
        check_loading(batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.collate = Collator(inputs)
        queries = queries or {}
        options: dict[str, Any] = {"skip_invalid": skip_invalid, "format": format, "corpus": corpus}
        mixture = open_mixture(
            train, train_weights, queries=queries.get("train"), queries_name="queries.train", **options
        )
        rows, self._weights, fingerprint = mixture
        self.fingerprints = {"train": (len(rows), fingerprint)}
        self.train_examples = TrainingExamples(
            rows, passages_per_query=passages_per_query, positives=positives, negatives=negatives, seed=seed
        )
        self._resume_at: dict[str, int] = {}
        self.dev_examples = None
        if dev:
            source = open_training(dev, name="dev", queries=queries.get("dev"), queries_name="queries.dev", **options)
            self.fingerprints["dev"] = (len(source.rows), source.fingerprint)
            self.dev_examples = DevExamples(source.rows, negatives=dev_negatives)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return batches of `batch_size` questions."""
        batches = self._batches(**self._rank_and_world_size())
        self._train_loader = ResumableLoader(self.train_examples, batch_sampler=batches, **self._loader_options())
        if self._resume_at:
            self._train_loader.load_state_dict(self._resume_at)
        return self._train_loader

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return batches of `batch_size` questions, or an empty list without dev data."""
        if self.dev_examples is None:
            return []
        batches = DevBatches(len(self.dev_examples), batch_size=self.batch_size, **self._rank_and_world_size())
        return DataLoader(self.dev_examples, batch_sampler=batches, **self._loader_options())

    def batches_per_epoch(self, world_size: int) -> int:
        """Return the number of batches of each process in an epoch."""
        return len(self._batches(world_size=world_size))

    def _batches(self, **rank_and_world_size: int) -> TrainingBatches:
        rows, size = len(self.train_examples), self.batch_size
        return TrainingBatches(rows, batch_size=size, seed=self.seed, weights=self._weights, **rank_and_world_size)

    def state_dict(self) -> dict[str, int]:
        """Return the position in the training data, for the checkpoint."""
        return self._train_loader.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the training loader at a saved position.

        Lightning restores only a loader that is created after the checkpoint is read, but it creates the loader before
        that, to count the steps.
        """
        self._resume_at = state

    def _rank_and_world_size(self) -> dict[str, int]:
        if self.trainer is None:
            return {}
        return {"global_rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

    def _loader_options(self) -> dict[str, Any]:
        if self.num_workers:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a worker's fork does not copy threads
        # With the server that forks workers by default from Python 3.14 on, a signal to all processes would end them.
        forks = self.num_workers > 0 and sys.platform == "linux"
        return {
            "multiprocessing_context": "fork" if forks else None,
            "collate_fn": self.collate,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "worker_init_fn": _leave_signals_to_parent,
        }


def _leave_signals_to_parent(worker: int) -> None:
    """Ignore the signals on which the training process saves a checkpoint, for which it needs its workers.

    SLURM and terminals send them to every process.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
