"""Recognizes the layout of a data file from its start.

The layout is the first one of its kind in `LAYOUTS` whose fields the file has; `format` restricts the choice to layouts
of one name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dpr_lightning.data.containers import Sample, Table
from dpr_lightning.data.layouts import FORMATS, LAYOUTS, SHAPES, Kind, Layout
from dpr_lightning.data.unknown_layout import unknown_layout
from dpr_lightning.errors import UserError, check_choice


def choose_layout(
    file: Path, sample: Sample, kind: Kind, *, name: str, format: str | None = None
) -> tuple[Layout, Table | None]:
    """Return the layout of a file, and if it is a table, how to read it.

    Args:
        file: The file, for messages.
        sample: Its start.
        kind: What the file must have.
        name: The argument that the file comes from, for messages.
        format: Allow only layouts of this name.

    Raises:
        UserError: The file has none of the layouts; the message names its fields and the accepted ones.
    """
    check_choice(format, "format", [None, *FORMATS])
    layouts = [layout for layout in LAYOUTS if layout.kind == kind and format in (None, layout.name)]
    if not layouts:
        others = ", ".join(dict.fromkeys(layout.name for layout in LAYOUTS if layout.kind == kind))
        raise UserError(f"format: '{format}' has no {kind} files. Set `format` to null or one of: {others}.")
    if sample.delimiter:
        for columns, header, quoted in _readings(sample, kind, forced=format is not None):
            for layout in layouts:
                if layout.matches(columns):
                    _check_unique(columns, file, name)
                    return layout, Table(columns, sample.delimiter, header, quoted)
        raise unknown_layout(file, sample.cells, layouts, LAYOUTS, name=name)
    objects = [record for record in sample.records if isinstance(record, dict)]
    for record in objects:
        for layout in layouts:
            if layout.matches(list(record)):
                return layout, None
    for layout in layouts:  # some rows lack a field of the layout; the schema will name them
        if not objects or any(_own_fields(layout) & record.keys() for record in objects):
            return layout, None
    raise unknown_layout(file, list(objects[0]), layouts, LAYOUTS, name=name)


def _check_unique(columns: Sequence[str], file: Path, name: str) -> None:
    if repeated := [column for column in columns if column and columns.count(column) > 1]:
        raise UserError(f"{name}: {file} has the column {repeated[0]} twice in its header. Rename or remove one.")


def _own_fields(layout: Layout) -> set[str]:
    """Return the fields that no other program uses in another meaning."""
    return {option for field in layout.fields for option in field.split("|")} - {"text", "id"}


def _readings(sample: Sample, kind: Kind, *, forced: bool) -> Iterator[tuple[tuple[str, ...], bool, bool]]:
    """Yield the possible (names of columns, header, quoted) of a table, the likeliest first."""
    yield tuple(cell.strip() for cell in sample.cells), True, True
    shapes = [shape for shape in SHAPES if shape.kind == kind]
    for certain in (True, False) if forced else (True,):
        for shape in shapes:
            cells = sample.cells if shape.quoted or sample.delimiter == "," else sample.raw_cells
            if len(cells) == len(shape.names) and (not certain or shape.recognizes(cells)):
                yield shape.names, False, shape.quoted
