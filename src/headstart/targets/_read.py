"""From whatever the user has — folders, tables, lists — to a Target, or one clear line why not."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headstart._errors import DataError, OptionError
from headstart._runtime import plain_read_errors, say
from headstart.modalities import Array, Example, Modality
from headstart.targets._folders import read_folder
from headstart.targets._found import (
    Found,
    as_text,
    files_below,
    find_modality,
    known_suffixes,
    sort_classes,
)
from headstart.targets._tables import TABLES, Columns, read_table
from headstart.targets._target import Target


def read(
    data: Any,
    labels: Sequence[Any] | None = None,
    *,
    label: str | None = None,
    group: str | None = None,
    groups: Sequence[Any] | None = None,
    test: Any = None,
    fewest: int = 2,
) -> Target:
    """The labelled examples in ``data``, of at least ``fewest`` classes.

    ``data`` is a folder with one folder per class (``train/`` and ``test/`` or ``val/`` may lie above them), a
    folder with ``metadata.csv`` (``file_name,label[,group]``), a CSV, TSV or Parquet table with a column of
    paths or contents, or a list of paths, encoded bytes, arrays or PIL images with ``labels`` and perhaps
    ``groups``. ``label`` and ``group`` name columns of a table. ``test`` is a part kept aside, read the same
    way (for lists: a pair of data and labels); it must not hold a class that ``data`` has not.

    A Target is handed back as it is.

    Raises DataError where the data cannot be used, OptionError where the arguments do not fit it.
    """
    if isinstance(data, Target):
        return data
    columns = Columns(label, group)
    found, name = _find(data, labels, groups, columns)
    if test is not None:
        if found.test is not None:
            found.notes.append(f"the test part inside {name} is not used: another one was given")
        found.test = _find_test(test, columns)
    _check(found, name, fewest)
    modality = find_modality(found.examples, name)
    return _target(found, sort_classes(found.labels), modality, name)


def read_examples(items: Any) -> list[Example]:
    """Unlabelled examples: files, folders (all known files below), patterns, bytes, arrays or PIL images.

    Raises DataError for a path that is not there. What cannot be decoded shows only when it is.
    """
    if isinstance(items, (str, os.PathLike, bytes)) or not isinstance(items, Iterable):
        items = [items]
    found: list[Example] = []
    for number, item in enumerate(items):
        if isinstance(item, (str, os.PathLike)):
            found += [Example(str(path), path) for path in _expanded(os.fspath(item))]
        else:
            found.append(_example(item, number))
    return found


def _expanded(text: str) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        suffixes = known_suffixes()
        below = files_below(path)
        inside = [file for file in below if file.suffix.lower() in suffixes]
        if not inside:
            raise DataError(f"{path} holds no files of a known type; give another folder, or files one by one")
        if len(inside) < len(below):
            other = next(file.name for file in below if file.suffix.lower() not in suffixes)
            say(f"{path}: {len(below) - len(inside)} files of no known type are passed over (such as {other})")
        return inside
    if path.exists():
        return [path]
    found = glob.iglob(text, recursive=True)  # noqa: PTH207  Path.glob refuses absolute patterns
    matches = sorted(found) if glob.has_magic(text) else []
    if not matches:
        raise DataError(f"there is no file or folder {text!r}; check the spelling and the folder you are in")
    return [file for match in matches for file in _expanded(match)]


# ---------------------------------------------------------------- finding


def _find(data: Any, labels: Any, groups: Any, columns: Columns) -> tuple[Found, str]:
    if not isinstance(data, (str, os.PathLike)):
        if columns.label or columns.group:
            raise OptionError("label= and group= name columns of a table; for a list give labels and groups=")
        return _read_list(data, labels, groups), "the list"
    if labels is not None or groups is not None:
        raise OptionError(f"{data} brings its own labels; give labels and groups= only together with a list")
    path = Path(data)
    if path.is_dir():
        with plain_read_errors(path):
            return read_folder(path, columns), path.resolve().name
    if path.suffix.lower() in TABLES and path.exists():
        return read_table(path, columns), path.stem
    if path.exists():
        raise DataError(f"{path} is neither a folder nor a table ({', '.join(TABLES)}); give the folder it lies in")
    raise DataError(f"there is no {path}; check the spelling and the folder you are in ({Path.cwd()})")


def _find_test(test: Any, columns: Columns) -> Found:
    data, labels = test if isinstance(test, tuple) and len(test) == 2 else (test, None)
    try:
        found, name = _find(data, labels, None, columns)
    except OptionError:
        if columns == Columns() or not isinstance(data, (str, os.PathLike)):
            raise
        folder = Path(data).is_dir()  # groups matter in training only, and a folder per class has no columns
        found, name = _find(data, labels, None, Columns(None if folder else columns.label))
    if found.test is not None:
        raise DataError(f"{name} itself has a training and a test part; give the folder of the test part alone")
    if not found.examples:
        raise DataError(f"the test part {name} holds no labelled examples; leave it out or fill it")
    return found


def _read_list(data: Any, labels: Any, groups: Any) -> Found:
    if not isinstance(data, (Iterable,)) or isinstance(data, (bytes, dict)):
        raise DataError(f"a {type(data).__name__} is no data; give a path, or a list of examples with labels")
    items = list(data)
    if labels is None:
        raise DataError(f"a list of {len(items)} examples came without labels; give labels of the same length")
    names = [as_text(value) for value in labels]
    members = [""] * len(items) if groups is None else [as_text(value) for value in groups]
    for what, values in (("labels", names), ("groups", members)):
        if len(values) != len(items):
            raise DataError(f"there are {len(items)} examples but {len(values)} {what}; give one for each")
    if "" in names:
        raise DataError(f"example {names.index('')} of the list has an empty label; give it one or leave it out")
    return Found([_example(item, i) for i, item in enumerate(items)], names, members)


def _example(item: Any, number: int) -> Example:
    if isinstance(item, Example):
        return item
    if isinstance(item, (str, os.PathLike)):
        return Example(str(item), Path(item))
    if isinstance(item, (bytes, bytearray, memoryview)):
        return Example(f"item {number}", bytes(item))
    return Example(f"item {number}", _as_array(item))


def _as_array(item: Any) -> Array:
    """An array, or anything that turns into one (a tensor, a PIL image: palettes are resolved first)."""
    mode = getattr(item, "mode", None)
    if isinstance(mode, str) and hasattr(item, "convert") and mode not in ("1", "L", "I;16", "RGB", "RGBA"):
        item = item.convert("RGBA" if mode in ("P", "PA", "LA") else "RGB")
    return np.asarray(item)


# ---------------------------------------------------------------- the target


def _check(found: Found, name: str, fewest: int) -> None:
    if not found.examples:
        first = next((f" (for example {k}: {why})" for k, why in found.skipped.items()), "")
        raise DataError(
            f"{name} holds no labelled examples{first}; one folder per class is needed, or a table whose paths are "
            "relative to its own folder"
        )
    if len(set(found.labels)) < fewest:
        raise DataError(
            f"{name} has one class only ({found.labels[0]!r}); there is nothing to tell apart: add examples of another"
        )
    unknown = sorted(set(found.test.labels) - set(found.labels)) if found.test else []
    if unknown:
        raise DataError(
            f"the test part of {name} has {_some(unknown)}, which the training part has not; "
            "spell the classes alike or take these examples out"
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"the class{'es' if len(names) > 1 else ''} {shown}{rest}"


def _target(found: Found, classes: tuple[str, ...], modality: Modality, name: str) -> Target:
    position = {label: i for i, label in enumerate(classes)}
    return Target(
        examples=found.examples,
        labels=np.array([position[label] for label in found.labels], np.int64),
        classes=classes,
        modality=modality,
        groups=np.array(found.groups) if any(found.groups) else None,
        test=_target(found.test, classes, modality, f"{name} (test part)") if found.test else None,
        notes=tuple(found.notes),
        name=name,
        skipped=found.skipped,
    )
