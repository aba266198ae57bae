"""Reads a large JSON document value by value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dpr_lightning.text_files import excerpt


class JsonStream:
    """Reads JSON values and the characters between them from the pieces of a text."""

    def __init__(self, pieces: Iterator[str]) -> None:
        """Start at the beginning of a text that comes in pieces."""
        self.pieces, self.buffer, self.position = pieces, "", 0
        self.decode = json.JSONDecoder().raw_decode

    def value(self) -> Any:
        """Return the next JSON value."""
        self.peek()
        while True:
            try:
                value, end = self.decode(self.buffer, self.position)
            except json.JSONDecodeError:
                if not self._read_more():
                    raise
                continue
            if end == len(self.buffer) and self._read_more():
                continue  # a number may go on
            self.position = end
            return value

    def take(self, characters: str) -> str:
        """Return the next character other than white space. Raises ValueError unless it is one of `characters`."""
        character = self.peek()
        if not character or character not in characters:
            raise ValueError(f"{excerpt(character)} instead of {' or '.join(characters)}")
        self.position += 1
        return character

    def peek(self) -> str:
        """Return the next character other than white space, or "" at the end of the file."""
        while True:
            for position in range(self.position, len(self.buffer)):
                if self.buffer[position] not in " \t\r\n":
                    self.position = position
                    return self.buffer[position]
            self.position = len(self.buffer)
            if not self._read_more():
                return ""

    def _read_more(self) -> bool:
        more, length, wanted = [self.buffer[self.position :]], 0, len(self.buffer) - self.position
        for piece in self.pieces:
            more.append(piece)
            length += len(piece)
            if length > wanted:  # at least as much again, so that a long value is decoded few times
                break
        self.buffer, self.position = "".join(more), 0
        return length > 0
