"""How many tokens of a question or a passage a model cuts off, counted with its tokenizer and without torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from dpr_lightning.data.segments import passage_segments
from dpr_lightning.errors import UserError
from dpr_lightning.model.settings import SETTINGS_FILE, Settings

_TOKENIZER = "tokenizer.json"


class Cut(NamedTuple):
    """The tokens of a text, special ones included, how many of them the model takes, and the part of the text it sees.

    Of a passage, `seen` is the part of its text, without the title.
    """

    tokens: int
    limit: int
    seen: str

    @property
    def lost(self) -> int:
        """The number of tokens that are cut off."""
        return max(0, self.tokens - self.limit)


class Lengths:
    """Counts tokens as `InputTokenizer` makes them."""

    def __init__(self, folder: Path) -> None:
        """Load the settings and the tokenizer of a model folder.

        Raises:
            UserError: The folder is not a model of this program, or its tokenizer is damaged.
        """
        if not all((folder / name).is_file() for name in (SETTINGS_FILE, _TOKENIZER)):
            raise UserError(f"{folder} is not a model of this program. Give the folder of the model that encoded.")
        self._settings = Settings.load(folder)
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER))
        except Exception as error:  # the library raises no other type
            raise UserError(f"{folder / _TOKENIZER} is damaged ({error}). Restore the file.") from error
        self._tokenizer.no_padding()

    def query(self, text: str) -> Cut:
        """Return how a question is cut."""
        settings = self._settings
        return self._cut(settings.query_prompt + text, None, text, settings.query_max_length)

    def passage(self, title: str, text: str) -> Cut:
        """Return how a passage is cut."""
        settings = self._settings
        first, second = passage_segments(title, text, separator=settings.separator, prompt=settings.passage_prompt)
        return self._cut(first, second, text, settings.passage_max_length)

    def _cut(self, first: str, second: str | None, text: str, limit: int) -> Cut:
        self._tokenizer.no_truncation()
        tokens = len(self._tokenizer.encode(first, second).ids)
        self._tokenizer.enable_truncation(limit)
        kept = self._tokenizer.encode(first, second)
        segment = 0 if second is None else 1
        spans = [span for span, own in zip(kept.offsets, kept.sequence_ids, strict=True) if own == segment]
        start = len(first) - len(text) if second is None else 0  # of the text in its segment
        seen = text if tokens <= limit else text[: max(0, max((end for _, end in spans), default=0) - start)]
        return Cut(tokens, limit, seen)
