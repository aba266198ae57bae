"""Assigns the rows of each epoch to batches and processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dpr_lightning.errors import UserError


class TrainingBatches:
    """Batches of keys (epoch, row) for one process.

    Each epoch shuffles all rows by (seed, epoch) and cuts them into global batches of `batch_size * world_size`, of
    which each process takes its slice. So W processes with N / W rows each see the same global batches, in the same
    order, as one process with N rows. The rows that are left over at the end of an epoch are dropped.
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
        """Count the rows of an epoch.

        Args:
            rows: Total number of rows.
            batch_size: Questions per process and batch.
            seed: Determines the order.
            weights: (rows, weight) per part of the data. A weight of 2 shows each row twice an epoch; 0.5 samples half
                of them, redrawn each epoch. Empty: every row has the weight 1.
            global_rank: Number of this process.
            world_size: Number of processes.

        Raises:
            UserError: The rows do not fill one global batch.
        """
        self.parts = [(part, *divmod(round(part * weight), part)) for part, weight in weights or [(rows, 1.0)]]
        self.rows = sum(part * copies + more for part, copies, more in self.parts)
        self.batch_size, self.seed = batch_size, seed
        self.global_rank, self.world_size = global_rank, world_size
        self.epoch, self.first_batch = 0, 0
        self.sampler = self  # Lightning looks for `set_epoch` here
        if not len(self):
            raise UserError(
                f"train: {self.rows} rows do not fill one batch of {batch_size} questions x {world_size} devices. "
                "Lower `batch_size`, or add rows."
            )

    def __len__(self) -> int:
        return self.rows // (self.batch_size * self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Start a new epoch with its first batch; Lightning calls this before each epoch."""
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
        """Return the rows of an epoch in their order: [rows of the epoch] int64."""
        # 1. Give every row a position in a random permutation.
        sizes = [part for part, _, _ in self.parts]
        positions = np.argsort(random.permutation(sum(sizes)))
        # 2. Count the copies of every row: those of all rows in its part, and one more for a sample of the part's rows.
        copies = np.repeat([copies for _, copies, _ in self.parts], sizes)
        for start, (part, _, more) in zip(np.cumsum([0, *sizes[:-1]]), self.parts, strict=True):
            copies[start + random.choice(part, more, replace=False)] += 1
        # 3. Spread the copies over the epoch.
        return spread_copies(positions, copies)


def spread_copies(positions: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Return the rows of an epoch, in which the copies of a row are evenly spaced, so that they share no batch.

    Copy k of a row gets the key `(k * N + position) / copies`, and all copies are sorted by their keys. Example with
    N = 4 rows at the positions 1, 0, 2, 3 and two copies of row 0:

        row 0: keys (0 * 4 + 1) / 2 = 0.5 and (1 * 4 + 1) / 2 = 2.5
        rows 1, 2, 3: keys 0, 2, 3
        order: 1, 0, 2, 0, 3 (equal keys would be in the order of the rows)

    Args:
        positions: [N] int64, a permutation.
        copies: [N] int64, at least 0 each.

    Returns:
        [sum of the copies] int64.
    """
    rows = np.repeat(np.arange(len(positions)), copies)
    first = np.cumsum(copies) - copies  # where each row's copies begin in `rows`
    number = np.arange(len(rows)) - first[rows]
    keys = (number * len(positions) + positions[rows]) / copies[rows]
    order: np.ndarray = rows[np.argsort(keys, kind="stable")]
    return order


class DevBatches:
    """Batches of keys (0, row). Every row belongs to exactly one process, and the order is always the same."""

    def __init__(self, rows: int, *, batch_size: int, global_rank: int = 0, world_size: int = 1) -> None:
        """Take the rows `global_rank`, `global_rank + world_size`, and so on."""
        self.mine = range(global_rank, rows, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.mine) // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for first in range(0, len(self.mine), self.batch_size):
            yield [(0, row) for row in self.mine[first : first + self.batch_size]]
