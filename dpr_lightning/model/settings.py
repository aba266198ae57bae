"""The settings that make embeddings comparable, besides the weights. They are saved with the model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dpr_lightning.errors import UserError, check_choice, check_positive
from dpr_lightning.files import write_json

SETTINGS_FILE = "dpr_lightning.json"
_FORMAT = 2
_FORMAT_1 = ["tied", "pooling", "normalize", "projection_dim", "query_max_length", "passage_max_length", "separator"]
DTYPES = ("float32", "bfloat16")
LARGEST = 1 << 20  # for lengths and dimensions; far beyond any model, and small enough for every library
POOLING_MODES = ("cls", "mean", "last")
"""The keys of `POOLING` in `pooling.py`, which needs torch."""
_NEWER = "was written by a newer version of dpr_lightning"


@dataclass(frozen=True)
class Settings:
    """Settings of a bi-encoder.

    A new setting needs a default under which embeddings stay what they were: models saved without it load with the
    default, and `hashed` leaves the default out, so that their fingerprint stays the same.

    Attributes:
        tied: Whether one encoder serves both sides.
        pooling: One of `POOLING_MODES`.
        normalize: Whether to divide embeddings by their L2 norm, which makes the inner product a cosine.
        projection_dim: Outputs of a linear layer after pooling; None for no such layer.
        query_max_length: Maximum number of tokens of a query, special tokens included.
        passage_max_length: Maximum number of tokens of a passage, special tokens included.
        separator: Text between title and text; `pair` encodes them as a sentence pair.
        query_prompt: Text put before a query; its tokens count as the query's.
        passage_prompt: Text put before the title of a passage; its tokens count as the passage's.
        dtype: The type of the weights, one of `DTYPES`.

    Raises:
        UserError: A value has the wrong type or is out of range.
    """

    tied: bool = True
    pooling: str = "cls"
    normalize: bool = False
    projection_dim: int | None = None
    query_max_length: int = 32
    passage_max_length: int = 156
    separator: str = " "
    query_prompt: str = ""
    passage_prompt: str = ""
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("tied", "normalize"):
            if not isinstance(value := getattr(self, name), bool):
                raise UserError(f"{name}: {value!r} is not true or false. Correct `{name}`.")
        check_choice(self.pooling, "pooling", POOLING_MODES)
        for name in ("projection_dim", "query_max_length", "passage_max_length"):
            value = getattr(self, name)
            if value is None and name == "projection_dim":
                continue
            check_positive(value, name)
            if value > LARGEST:
                raise UserError(f"{name}: {value:,} is more than {LARGEST:,}. Lower it.")
        if not isinstance(self.separator, str):
            raise UserError(f'separator: {self.separator!r} is not a string. Set `separator` to " " or "pair".')
        for name in ("query_prompt", "passage_prompt"):
            if not isinstance(value := getattr(self, name), str):
                raise UserError(f'{name}: {value!r} is not a string. Set `{name}` to a text, or to "" for none.')
        check_choice(self.dtype, "dtype", DTYPES)

    def hashed(self) -> dict[str, Any]:
        """Return what a fingerprint covers: the settings of format 1, and later ones that are not at their default."""
        values = asdict(self)
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in values.items() if name in _FORMAT_1 or value != defaults[name]}

    def inputs(self) -> dict[str, Any]:
        """Return the arguments of `InputTokenizer`, all but the tokenizer."""
        names = ("query_max_length", "passage_max_length", "separator", "query_prompt", "passage_prompt")
        return {name: getattr(self, name) for name in names}

    def save(self, folder: Path) -> None:
        """Write the settings into a model folder; earlier versions can read it if it has no setting new to them."""
        write_json(folder / SETTINGS_FILE, {"format": _FORMAT, "similarity": "dot", **self.hashed()})

    @classmethod
    def load(cls, folder: Path) -> Settings:
        """Return the settings of a model folder; a setting that the file does not have takes its default.

        Raises:
            UserError: The file is damaged, or a newer version wrote it.
        """
        file = folder / SETTINGS_FILE
        try:
            saved = json.loads(file.read_bytes())
            number = saved.pop("format")
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise ValueError(f"format is {number!r}")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise UserError(f"{file} is damaged ({error!r}). Restore the file, or train again.") from error
        if number > _FORMAT:
            raise UserError(f"{file} {_NEWER} (format {number}, this version reads {_FORMAT}). Update dpr_lightning.")
        if (similarity := saved.pop("similarity", "dot")) != "dot":
            raise UserError(f"{file} {_NEWER} (similarity: {similarity!r}). Update dpr_lightning.")
        if unknown := sorted(saved.keys() - {field.name for field in fields(cls)}):
            raise UserError(f"{file} {_NEWER} (unknown setting {unknown[0]!r}). Update dpr_lightning.")
        try:
            return cls(**saved)
        except UserError as error:
            problem = str(error).partition(". ")[0]
            raise UserError(
                f"{file} is damaged or {_NEWER} ({problem}). Restore the file, or update dpr_lightning."
            ) from error
