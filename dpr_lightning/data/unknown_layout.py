"""The error of a file whose fields are those of no layout: what it has, and what it looks like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dpr_lightning.errors import UserError

if TYPE_CHECKING:
    from dpr_lightning.data.layouts import Layout

_KINDS = {"training": "training data", "queries": "queries", "corpus": "a corpus"}


def unknown_layout(
    file: Path, fields: Sequence[str], accepted: Sequence[Layout], known: Sequence[Layout], *, name: str
) -> UserError:
    """Return the error of a file that has none of the accepted layouts.

    Args:
        file: The file.
        fields: Its fields.
        accepted: The layouts that it may have, all of one kind.
        known: All layouts, also those of other kinds.
        name: The argument that the file comes from.
    """
    wanted = "; ".join(f"{', '.join(layout.fields)} ({layout.name})" for layout in accepted)
    shown = ", ".join(repr(field[:40])[1:-1] for field in fields[:12]) or "nothing"
    return UserError(
        f"{name}: {file} has the fields {shown}, which is not a known layout. "
        f"{_looks_like(fields, accepted, known)}Rename them to one of: {wanted}."
    )


def _looks_like(fields: Sequence[str], accepted: Sequence[Layout], known: Sequence[Layout]) -> str:
    """Return a sentence on the layout that the fields are those of, or on the closest accepted one, or nothing."""
    if other := next((layout for layout in known if layout.matches(fields)), None):
        if other.kind == accepted[0].kind:
            return f"It looks like the format {other.name}. "
        return f"It looks like {_KINDS[other.kind]} in the format {other.name}, not {_KINDS[accepted[0].kind]}. "
    closest = max(accepted, key=lambda layout: _share(layout, fields))
    missing = [field for field in closest.fields if not set(field.split("|")) & set(fields)]
    if len(missing) == len(closest.fields):
        return ""
    return f"It looks like the format {closest.name} without {' and '.join(missing)}. "


def _share(layout: Layout, fields: Sequence[str]) -> float:
    """Return the share of a layout's fields that a file has."""
    return sum(bool(set(field.split("|")) & set(fields)) for field in layout.fields) / len(layout.fields)
