"""Folders: one per class, with ``train/`` and ``test/`` above them or not, or described by a metadata.csv."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from headstart._errors import DataError, OptionError
from headstart.modalities import Example
from headstart.targets._found import PASSED_OVER, Found, files_below, ignored, known_suffixes
from headstart.targets._tables import Columns, read_table

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation")  # the first that is there is the test part
METADATA = "metadata.csv"


def read_folder(folder: Path, columns: Columns) -> Found:
    """The examples below ``folder``. Raises DataError if there are none, or none with a label."""
    parts = _parts(folder)
    if (folder / METADATA).is_file():
        whole = _read_metadata(folder, columns)
        return _divided(folder, whole, parts) if parts else whole
    if not parts:
        return _read_part(folder, folder, columns)
    train, *others = (_read_part(part, folder, columns) for part in parts)
    train.test = others[0] if others else None
    for part, more in zip(parts[2:], others[1:]):
        train.join(more)
        train.notes.append(_joined(part.name, parts[1].name))
    return train


def _parts(folder: Path) -> list[Path]:
    """[training folder, test folder, further ones], or [] where the sub-folders are not parts but classes.

    A folder called "train" beside one called "aeroplane" is a class.
    """
    names = {path.name.lower(): path for path in folder.iterdir() if path.is_dir() and not ignored(path.name)}
    train = [names[name] for name in _TRAIN if name in names]
    if len(train) != 1 or not set(names) <= {*_TRAIN, *_TEST}:
        return []
    return train + [names[name] for name in _TEST if name in names]


def _joined(part: str, test: str) -> str:
    return f"{part}/ was added to the training part: {test}/ is the test part, and headstart validates by folds"


def _read_part(folder: Path, root: Path, columns: Columns) -> Found:
    if (folder / METADATA).is_file():
        return _read_metadata(folder, columns, root)
    for what, column in (("group", columns.group), ("label", columns.label)):
        if column is not None:
            raise OptionError(
                f"there is no column {column!r}: {folder} has no {METADATA}; "
                f"add one with file_name, label and group, or leave the {what} out"
            )
    return _read_classes(folder, root)


def _read_metadata(folder: Path, columns: Columns, root: Path | None = None) -> Found:
    found = read_table(folder / METADATA, columns, root or folder)
    suffixes, named = known_suffixes(), {e.content for e in found.examples}
    other = [p for p in files_below(folder) if p.suffix.lower() in suffixes and p not in named]
    unnamed = sum(p.relative_to(root or folder).as_posix() not in found.skipped for p in other)
    if unnamed:
        found.notes.append(f"{unnamed} files in {folder.name}/ are not named in {METADATA}: left out")
    return found


def _divided(folder: Path, whole: Found, parts: list[Path]) -> Found:
    """One metadata.csv above ``train/`` and ``test/``: its rows go to the part that their file lies in."""
    test = parts[1] if len(parts) > 1 else None
    train, kept = Found(skipped=whole.skipped, notes=whole.notes), Found()
    for example, label, group in zip(whole.examples, whole.labels, whole.groups):
        inside = isinstance(example.content, Path) and test is not None and example.content.is_relative_to(test)
        (kept if inside else train).add(example, label, group)
    train.notes += [_joined(part.name, parts[1].name) for part in parts[2:]]
    train.test = kept if kept.examples else None
    return train


def _read_classes(folder: Path, root: Path) -> Found:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not ignored(path.name))
    loose = [path for path in folder.iterdir() if path.is_file() and not ignored(path.name)]
    accept = _acceptance(folder, loose, classes)
    found = Found()
    for place in classes:
        before = len(found.examples)
        _read_class(place, root, accept, found)
        if len(found.examples) == before:
            found.notes.append(f"the folder {place.name}/ holds no examples: left out")
    unlabelled = sum(accept(path) for path in loose)
    if unlabelled:
        found.notes.append(f"{unlabelled} files lie beside the class folders of {folder} and have no label: left out")
    return found


def _read_class(place: Path, root: Path, accept: Callable[[Path], bool], found: Found) -> None:
    for path in files_below(place):
        name = path.relative_to(root).as_posix()
        if accept(path):
            found.add(Example(name, path), place.name.strip())
        else:
            found.skipped[name] = f"{PASSED_OVER}no known file type ({path.suffix or 'no ending'})"


def _acceptance(folder: Path, loose: list[Path], classes: list[Path]) -> Callable[[Path], bool]:
    """Which files count: those of a known ending; all of them if none has one (contents decide later)."""
    suffixes = known_suffixes()
    inside = [path for place in classes for path in files_below(place)]
    if not inside:
        images = sum(path.suffix.lower() in suffixes for path in loose)
        cause = f"holds {images} files but no labels" if images else "holds no examples"
        raise DataError(
            f"{folder} {cause}; sort them into one folder per class, or add {METADATA} with file_name,label"
        )
    if any(path.suffix.lower() in suffixes for path in inside):
        return lambda path: path.suffix.lower() in suffixes
    return lambda path: path.suffix == ""
