"""What a reader brings home, before classes are numbered: the common ground of folders, tables and lists."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart._errors import BadExample, DataError
from headstart.modalities import Example, Modality, all_modalities

PASSED_OVER = "passed over: "
"""Opens the reason of what never claimed to be an example; such things are listed but not counted as bad."""

_NOT_DATA = {"thumbs.db", "desktop.ini", "__macosx", "metadata.csv", "metadata.jsonl", "metadata.parquet"}
_SAMPLE = 8


@dataclass
class Found:
    """Examples with their labels and groups as text, and everything noticed on the way."""

    examples: list[Example] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    test: Found | None = None

    def add(self, example: Example, label: str, group: str = "") -> None:
        """One more example."""
        self.examples.append(example)
        self.labels.append(label)
        self.groups.append(group)

    def join(self, other: Found) -> None:
        """Everything of ``other`` as well."""
        self.examples += other.examples
        self.labels += other.labels
        self.groups += other.groups
        self.skipped |= other.skipped
        self.notes += other.notes


def as_text(value: Any) -> str:
    """A label or group as text: 3, 3.0 and "3 " are "3"; None and NaN are ""."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def ignored(name: str) -> bool:
    """Whether a file or folder of this name is the system's or ours, and not worth a word."""
    return name.startswith(".") or name.lower() in _NOT_DATA


def known_suffixes() -> frozenset[str]:
    """The file endings of every input type."""
    return frozenset().union(*(m.suffixes for m in all_modalities()))


def files_below(folder: Path) -> list[Path]:
    """Every file below ``folder`` but hidden ones, sorted. Links to folders are not followed (they may loop)."""
    found = []
    for place, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not ignored(name))
        found += [Path(place, name) for name in files if not ignored(name)]
    return sorted(found)


def _raise(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise error


def contained(root: Path, value: str, table: Path) -> Path:
    """The file that a row of ``table`` names, ``value`` being relative to ``root``.

    Raises DataError if it lies outside ``root``, also by way of a link: a table must not be able to pick up
    other files of this machine.
    """
    if "\0" in value:
        raise DataError(f"{table} names a file with a null character in it; correct that row")
    path = root / value
    if "\\" in value and not path.exists():
        path = root / value.replace("\\", "/")
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise DataError(
            f"{table} names {value!r}, which lies outside its folder {root}; "
            "move the files below that folder or correct the path"
        )
    return path


def find_modality(examples: Sequence[Example], place: str) -> Modality:
    """The input type of most examples: by file ending, else by trying to decode a few. Raises DataError."""
    suffixes = Counter(e.content.suffix.lower() for e in examples if isinstance(e.content, Path))
    votes = {m.name: sum(suffixes[s] for s in m.suffixes) for m in all_modalities()}
    if not any(votes.values()):
        votes = {m.name: sum(_decodes(m, e) for e in examples[:_SAMPLE]) for m in all_modalities()}
    best = max(all_modalities(), key=lambda m: votes[m.name])
    if not votes[best.name]:
        kinds = " or ".join(f"{m.name}s" for m in all_modalities())
        raise DataError(f"nothing in {place} can be read as {kinds}; look at {examples[0].name!r} first")
    return best


def sort_classes(labels: Iterable[str]) -> tuple[str, ...]:
    """Distinct labels in order: by number if all are whole numbers, else by name."""
    names = set(labels)
    if all(name.lstrip("+-").isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _decodes(modality: Modality, example: Example) -> bool:
    try:
        modality.decode(example.raw())
    except BadExample:
        return False
    return True
