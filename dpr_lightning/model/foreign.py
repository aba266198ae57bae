"""What a folder of another program says about its model, and whose settings win: the user's, the folder's, ours."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from dpr_lightning.errors import UserError
from dpr_lightning.model.settings import Settings

_log = logging.getLogger(__name__)


class EncoderFiles(NamedTuple):
    """Where the parts of an encoder are.

    Attributes:
        transformer: A folder or a hub name.
        projection: The folder of the projection; without weights in it, a projection would start at random.
        bias: Whether the projection has a bias.
    """

    transformer: str
    projection: Path
    bias: bool = True


@dataclass(frozen=True)
class Foreign:
    """What a folder of another program says.

    Attributes:
        folder: The folder.
        settings: Values of fields of `Settings`; those that the folder does not tell are missing.
        query: The files of the query encoder.
        passage: The files of the passage encoder, the same as the query encoder's in a tied model.
        notes: Sentences that a user of the folder should read.
    """

    folder: Path
    settings: dict[str, Any]
    query: EncoderFiles
    passage: EncoderFiles
    notes: Sequence[str] = ()

    def complete(self, given: Settings, explicit: Collection[str]) -> Settings:
        """Return the settings to use, and log them in one line: the user's, else the folder's, else the defaults.

        Args:
            given: The user's settings. A value other than the default counts as set by the user.
            explicit: Names of settings that the user set, even if to the default.

        Raises:
            UserError: The user wants one encoder for both sides, and the folder has two.
        """
        chosen = {f.name for f in fields(Settings) if f.name in explicit or getattr(given, f.name) != f.default}
        if "tied" in chosen and given.tied and self.query != self.passage:
            query, passage = Path(self.query.transformer).name, Path(self.passage.transformer).name
            raise UserError(f"tied: {self.folder} has two encoders, {query} and {passage}. Set `tied`=false.")
        settings = replace(given, **{name: value for name, value in self.settings.items() if name not in chosen})
        told = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        replaced = ", ".join(
            f"{name}={getattr(given, name)!r}"
            for name, value in self.settings.items()
            if name in chosen and value != getattr(given, name)
        )
        line = f"{self.folder} has the settings {told}" + (f"; replaced by yours: {replaced}" if replaced else "")
        _log.info(". ".join([line, *self.notes]))
        return settings

    def within_positions(self, settings: Settings, side: str, positions: range | None) -> Settings:
        """Return the settings with a length that the folder told cut to the encoder's positions.

        Other programs allow such lengths, and fail on longer texts.
        """
        name = f"{side}_max_length"
        length = getattr(settings, name)
        if positions is None or length <= len(positions) or length != self.settings.get(name):
            return settings
        cut: dict[str, Any] = {name: len(positions)}
        return replace(settings, **cut)
