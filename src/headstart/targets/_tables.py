"""Tables: CSV, TSV and Parquet with a column of paths or of contents, and one of labels."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart._errors import DataError, OptionError
from headstart.modalities import Example, all_modalities
from headstart.targets._found import Found, as_text, contained, known_suffixes

TABLES = (".csv", ".tsv", ".parquet")
_LABELS = ("label", "labels", "class", "class_name", "classname", "category", "target", "y", "diagnosis", "species")
_GROUP = "group"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that the user named; None means: find it."""

    label: str | None = None
    group: str | None = None


Table = Mapping[str, Sequence[Any]]


def read_table(path: Path, columns: Columns, root: Path | None = None) -> Found:
    """The examples that ``path`` lists; paths in it are relative to its own folder and must stay inside.

    Names shown to the user are relative to ``root``. Raises DataError for a table that cannot be read or has
    no such columns, OptionError for a column that the user named and that is not there.
    """
    table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    found = Found()
    content = _content_column(path, table, found)
    group = _group_column(path, table, columns)
    label = _label_column(path, table, columns, {content, group}, found)
    groups = table[group] if group else [""] * len(table[content])
    for number, (cell, name, member) in enumerate(zip(table[content], table[label], groups), start=1):
        _add_row(found, path, root or path.parent, number, cell, as_text(name), as_text(member))
    return found


def _add_row(found: Found, table: Path, root: Path, number: int, cell: Any, label: str, group: str) -> None:
    if isinstance(cell, Mapping):  # the hub's struct of bytes and path
        cell = cell.get("bytes") or cell.get("path")
    row = f"{table.name} row {number}"
    if isinstance(cell, bytes):
        example = Example(row, cell)
    elif not as_text(cell):
        found.skipped[row] = "names no file"
        return
    else:
        file = contained(table.parent, as_text(cell), table)
        name = file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
        example = Example(name, file)
        if not file.is_file():
            where = f"{name} ({row})" if name in found.skipped else name
            found.skipped[where] = f"named in {table.name} but not there"
            return
    if label:
        found.add(example, label, group)
    else:
        found.skipped[example.name] = f"has no label in {table.name}"


# ---------------------------------------------------------------- columns


def _content_column(path: Path, table: Table, found: Found) -> str:
    for candidate in (name for m in all_modalities() for name in m.content_columns):
        for column in table:
            if column.lower() == candidate:
                return column
    for column, cells in table.items():
        if _holds_content(next((cell for cell in cells if cell not in (None, "")), None)):
            found.notes.append(f"column {column!r} of {path.name} is taken as the examples")
            return column
    wanted = ", ".join(dict.fromkeys(name for m in all_modalities() for name in m.content_columns[:5]))
    raise DataError(f"{path} has no column of files or contents ({_listed(table)}); name one of: {wanted}")


def _holds_content(cell: Any) -> bool:
    if isinstance(cell, str):
        return Path(cell).suffix.lower() in known_suffixes()
    return isinstance(cell, bytes) or (isinstance(cell, Mapping) and {"bytes", "path"} <= set(cell))


def _group_column(path: Path, table: Table, columns: Columns) -> str | None:
    if columns.group is not None:
        return _named(path, table, columns.group, "group")
    for column in table:
        if column.lower() == _GROUP and any(as_text(cell) for cell in table[column]):
            return column
    return None


def _label_column(path: Path, table: Table, columns: Columns, taken: set[str | None], found: Found) -> str:
    if columns.label is not None:
        return _named(path, table, columns.label, "label")
    by_name = {column.lower(): column for column in table if column not in taken}
    for candidate in _LABELS:
        if candidate in by_name:
            return by_name[candidate]
    rest = [column for column in by_name.values() if column.lower() != _GROUP]
    if len(rest) == 1:
        found.notes.append(f"column {rest[0]!r} of {path.name} is taken as the labels")
        return rest[0]
    raise DataError(f"{path} has no column called label ({_listed(table)}); say which one it is with --label (label=)")


def _named(path: Path, table: Table, column: str, what: str) -> str:
    if column not in table:
        raise OptionError(f"{path} has no column {column!r} for {what} ({_listed(table)}); name one of those")
    return column


def _listed(table: Iterable[str]) -> str:
    return "its columns: " + ", ".join(table)


# ---------------------------------------------------------------- files


def _read_csv(path: Path) -> Table:
    rows = _rows(path, _text(path))
    header = [cell.strip() for cell in rows[0]] if rows else []
    if not any(header):
        raise DataError(f"{path} is empty; its first row must name the columns, such as file_name,label")
    if len(set(header)) < len(header):
        raise DataError(f"{path} names a column twice ({', '.join(header)}); rename one of them")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) > len(header):
            raise DataError(
                f"{path} has {len(row)} cells in line {number} but {len(header)} columns; "
                "put cells that contain the separator in quotes"
            )
    body = [row + [""] * (len(header) - len(row)) for row in rows[1:] if any(cell.strip() for cell in row)]
    return {name: [row[i] for row in body] for i, name in enumerate(header)}


def _rows(path: Path, text: str) -> list[list[str]]:
    first = text.split("\n", 1)[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table ({error}); save it again as CSV in UTF-8") from error


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check that it is yours to read") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path} is not UTF-8 (line {line}); save it again as CSV in UTF-8") from error


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        cause = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as Parquet ({cause}); write or download it again") from error
    columns: dict[str, Sequence[Any]] = {name: table.column(name).to_pylist() for name in table.column_names}
    for name, classes in _class_names(table.schema.metadata or {}).items():
        if name in columns:
            columns[name] = [_class_name(path, row, i, classes) for row, i in enumerate(columns[name], start=1)]
    return columns


def _class_name(path: Path, row: int, value: Any, classes: Sequence[str]) -> Any:
    if not isinstance(value, int) or value == -1:  # -1 is how the hub's ``datasets`` says "not labelled"
        return None if value == -1 else value
    if not 0 <= value < len(classes):
        raise DataError(
            f"{path}: row {row} has the label {value}, but its description names {len(classes)} classes (0 to "
            f"{len(classes) - 1}); correct the labels or the table's description"
        )
    return classes[value]


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """The names behind numbered labels, as the hub's ``datasets`` writes them beside the table."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {name: kind["names"] for name, kind in features.items() if "names" in kind}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
