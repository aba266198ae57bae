"""Samples training examples. What a row yields in an epoch depends on (seed, epoch, row) and on nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from dpr_lightning.errors import UserError, check_at_least, check_choice, check_positive

Passage = dict[str, Any]  # docid, title, text, and the teacher's score for the row's question, if there is one


class Example(NamedTuple):
    """A question with its passages, the positive first, and the docids of all its known positives."""

    query: str
    passages: list[Passage]
    positive_docids: list[str]


class TrainingExamples(Dataset[Example]):
    """Examples by (epoch, row), each with `passages_per_query` passages.

    - positives `first`: the row's first positive; `random`: one drawn anew each epoch.
    - negatives `first`: the first ones; `random`: drawn anew each epoch; `rotate`: each row's negatives are shuffled
      once, and successive epochs take successive slices, so that none repeats before all were used (as Tevatron v1).

    A row with too few hard negatives is filled up with first positives of other rows, drawn anew each epoch: passages
    that are negatives by the same right as the in-batch ones.
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
        """Takes rows as `open_training` gives them. Raises UserError for a setting that is not possible."""
        check_positive(passages_per_query, "data.passages_per_query")
        check_choice(positives, "data.positives", ["first", "random"])
        check_choice(negatives, "data.negatives", ["rotate", "first", "random"])
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

    def _hard_negatives(self, held: list[Passage], epoch: int, row: int, draw: random.Random) -> list[Passage]:
        count = min(self.passages_per_query - 1, len(held))
        if self.negatives == "first":
            return held[:count]
        if self.negatives == "random":
            return draw.sample(held, count)
        order = random.Random(f"{self.seed}/{row}").sample(range(len(held)), len(held))
        return [held[order[(epoch * count + i) % len(held)]] for i in range(count)]

    def _others(self, count: int, row: int, known: list[Passage], draw: random.Random) -> list[Passage]:
        """`count` passages of other rows, none of them among `known`."""
        found: list[Passage] = []
        taken, seen = {passage["docid"] for passage in known}, {row}
        while len(found) < count:
            if len(seen) == len(self.rows):
                raise UserError(
                    f"data.train: row {row + 1} needs {count} more negatives than it has, and all other rows together "
                    f"lend {len(found)}. Add negatives, or lower data.passages_per_query."
                )
            other = draw.randrange(len(self.rows))
            if other in seen:
                continue
            seen.add(other)
            passage = self.rows[other]["positives"][0]
            if passage["docid"] not in taken:
                found.append({**passage, "score": None})
                taken.add(passage["docid"])
        return found


class DevExamples(Dataset[Example]):
    """Examples by (epoch, row) for validation: the first positive and the row's first `negatives` hard negatives."""

    def __init__(self, rows: Sequence[dict[str, Any]], *, negatives: int) -> None:
        """Takes rows as `open_training` gives them."""
        check_at_least(0, negatives, "data.dev_negatives")
        self.rows, self.negatives = rows, negatives

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        record = self.rows[key[1]]
        passages = [record["positives"][0], *record["negatives"][: self.negatives]]
        return Example(record["query"], passages, [passage["docid"] for passage in record["positives"]])
