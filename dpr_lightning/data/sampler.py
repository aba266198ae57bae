"""Deals the rows of each epoch out to batches and processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dpr_lightning.errors import UserError


class TrainingBatches:
    """Batches of keys (epoch, row) for one process.

    Each epoch shuffles all rows by (seed, epoch) and cuts them into global batches of `batch_size * world_size`; a
    process takes its slice of each. So W processes with N / W rows each see the global batches that one process with
    N sees, in the same order. The rows left over at the end of an epoch are dropped.
    """

    def __init__(
        self,
        rows: int,
        *,
        batch_size: int,
        seed: int,
        weights: Sequence[tuple[int, float]] = (),
        global_rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Raises UserError if there are not enough rows for one global batch.

        Args:
            rows: in all.
            batch_size: of this process.
            seed: decides the order.
            weights: for successive parts of the rows, how many they are and how often an epoch takes each of them: 2
                is twice, half an epoch apart; 0.5 is a half of them, drawn anew each epoch. None: all rows once.
            global_rank: of this process.
            world_size: number of processes.
        """
        self.parts = [(part, *divmod(round(part * weight), part)) for part, weight in weights or [(rows, 1.0)]]
        self.rows = sum(part * copies + more for part, copies, more in self.parts)
        self.batch_size, self.seed = batch_size, seed
        self.global_rank, self.world_size = global_rank, world_size
        self.epoch, self.first_batch = 0, 0
        self.sampler = self  # where Lightning looks for `set_epoch`
        if not len(self):
            raise UserError(
                f"data.train: {self.rows} rows do not fill one batch of {batch_size} questions x {world_size} devices. "
                "Lower data.batch_size, or add rows."
            )

    def __len__(self) -> int:
        return self.rows // (self.batch_size * self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of an epoch; a new epoch begins with its first batch."""
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self._order(np.random.default_rng([self.seed, self.epoch]))
        step = self.batch_size * self.world_size
        start, self.first_batch = self.first_batch, 0
        for batch in range(start, len(self)):
            first = batch * step + self.global_rank * self.batch_size
            yield [(self.epoch, int(row)) for row in order[first : first + self.batch_size]]

    def _order(self, random: np.random.Generator) -> np.ndarray:
        """The rows of an epoch; the copies of a row are spread evenly over it, so that they meet in no batch."""
        place = np.argsort(random.permutation(sum(part for part, _, _ in self.parts)))
        copies = np.concatenate([np.repeat(copies, part) for part, copies, _ in self.parts])
        for first, (part, _, more) in zip(np.cumsum([0, *(p[0] for p in self.parts)]), self.parts, strict=False):
            copies[first + random.choice(part, more, replace=False)] += 1
        taken = np.repeat(np.arange(len(place)), copies)
        copy = np.arange(len(taken)) - np.repeat(np.cumsum(copies) - copies, copies)
        order: np.ndarray = taken[np.argsort((copy * len(place) + place[taken]) / copies[taken], kind="stable")]
        return order


class DevBatches:
    """Batches of keys (0, row): every row goes to exactly one process, none twice, in the same order each time."""

    def __init__(self, rows: int, *, batch_size: int, global_rank: int = 0, world_size: int = 1) -> None:
        """Takes the rows `global_rank`, `global_rank + world_size` and so on."""
        self.mine = range(global_rank, rows, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.mine) // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for first in range(0, len(self.mine), self.batch_size):
            yield [(0, row) for row in self.mine[first : first + self.batch_size]]
