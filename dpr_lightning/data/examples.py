"""Samples training examples. A row's example in an epoch is a pure function of (seed, epoch, row)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from dpr_lightning.data.checks import check_sampling
from dpr_lightning.errors import UserError, check_at_least

Passage = dict[str, Any]  # docid, title, text, and a teacher's score for the row's question or None


class Example(NamedTuple):
    """A question with its passages, the positive first, and the docids of all its known positives."""

    query: str
    passages: list[Passage]
    positive_docids: list[str]


class TrainingExamples(Dataset[Example]):
    """Examples by (epoch, row), each with `passages_per_query` passages.

    - `positives`: `first` takes the row's first positive, `random` draws one each epoch.
    - `negatives`: `first` takes the row's first hard negatives, `random` draws some each epoch. `rotate` shuffles them
      once and takes the next slice each epoch, so that none repeats before all were used, as in Tevatron v1.

    A row with too few hard negatives is filled up with first positives of other rows, drawn each epoch. They act like
    in-batch negatives.
    """

    def __init__(
        self,
        rows: Sequence[dict[str, Any]],
        *,
        passages_per_query: int = 2,
        positives: str = "first",
        negatives: str = "rotate",
        seed: int = 42,
    ) -> None:
        """Store rows as `open_training` returns them.

        Raises:
            UserError: A setting is not possible.
        """
        check_sampling(passages_per_query=passages_per_query, positives=positives, negatives=negatives)
        self.rows, self.seed = rows, seed
        self.passages_per_query, self.positives, self.negatives = passages_per_query, positives, negatives

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, row = key
        record = self.rows[row]
        draw = random.Random(f"{self.seed}/{epoch}/{row}")
        positives: list[Passage] = record["positives"]
        positive = positives[0] if self.positives == "first" else draw.choice(positives)
        docids = [passage["docid"] for passage in positives]
        negatives = self._hard_negatives(record["negatives"], epoch, row, draw)
        others = self._others(self.passages_per_query - 1 - len(negatives), row, [*positives, *negatives], draw)
        return Example(record["query"], [positive, *negatives, *others], docids)

    def _hard_negatives(self, negatives: list[Passage], epoch: int, row: int, draw: random.Random) -> list[Passage]:
        """Return as many of the row's hard negatives as the example needs, or all of them."""
        count = min(self.passages_per_query - 1, len(negatives))
        if self.negatives == "first":
            return negatives[:count]
        if self.negatives == "random":
            return draw.sample(negatives, count)
        order = random.Random(f"{self.seed}/{row}").sample(range(len(negatives)), len(negatives))
        return [negatives[order[(epoch * count + i) % len(negatives)]] for i in range(count)]

    def _others(self, count: int, row: int, known: list[Passage], draw: random.Random) -> list[Passage]:
        """Return `count` passages of other rows that are not among `known`."""
        others: list[Passage] = []
        taken, seen = {passage["docid"] for passage in known}, {row}
        while len(others) < count:
            if len(seen) == len(self.rows):
                raise UserError(
                    f"train: row {row + 1} needs {count} more negatives than it has, but all other rows together have "
                    f"only {len(others)}. Add negatives, or lower `passages_per_query`."
                )
            other = draw.randrange(len(self.rows))
            if other in seen:
                continue
            seen.add(other)
            passage = self.rows[other]["positives"][0]
            if passage["docid"] not in taken:
                others.append({**passage, "score": None})
                taken.add(passage["docid"])
        return others


class DevExamples(Dataset[Example]):
    """Examples by (epoch, row) for validation: the row's first positive and its first `negatives` hard negatives."""

    def __init__(self, rows: Sequence[dict[str, Any]], *, negatives: int) -> None:
        """Store rows as `open_training` returns them."""
        check_at_least(0, negatives, "dev_negatives")
        self.rows, self.negatives = rows, negatives

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        record = self.rows[key[1]]
        passages = [record["positives"][0], *record["negatives"][: self.negatives]]
        return Example(record["query"], passages, [passage["docid"] for passage in record["positives"]])
