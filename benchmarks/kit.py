"""The data kit, and draws of a few labelled examples from it with all the rest as the test part."""

from __future__ import annotations

import csv
import os
import random
import shutil
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = HERE / ".work"


def kit_path(given: str | None = None) -> Path:
    """The kit's folder: as given, from ``HEADSTART_KIT``, or beside the checkout."""
    path = Path(given or os.environ.get("HEADSTART_KIT") or HERE.parent.parent / "shared").resolve()
    if not (path / "data" / "image").is_dir():
        raise SystemExit(f"there is no data kit in {path}; name its folder with --kit or HEADSTART_KIT")
    return path


@dataclass(frozen=True)
class Draw:
    """``train`` and ``test``: folders with metadata.csv and the files it names."""

    name: str
    train: Path
    test: Path

    def count(self, part: str) -> int:
        return len(listed(getattr(self, part)))


Row = dict[str, str]


def listed(folder: Path) -> list[Row]:
    with (folder / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def draw(kit: Path, name: str, seed: int = 0, count: int = 100) -> Draw:
    """``count`` labelled examples, as many of each class; groups (patients) of the training part leave the test part.

    The same seed gives the same files. Only the first call copies them.
    """
    place = WORK / "draws" / f"{name}-{count}-{seed}"
    found = Draw(name, place / "train", place / "test")
    if not (place / "complete").is_file():
        source = kit / "data" / "image" / name
        train, test = _split(listed(source), seed, count)
        for folder, rows in ((found.train, train), (found.test, test)):
            _copy(source, folder, rows)
        (place / "complete").touch()
    return found


def _split(rows: list[Row], seed: int, count: int) -> tuple[list[Row], list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["group"] or row["file_name"]].append(row)
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    quota = Counter({label: count // len({r["label"] for r in rows}) for label in {r["label"] for r in rows}})
    train: list[Row] = []
    test: list[Row] = []
    for name in order:
        wanted = [row for row in groups[name] if quota[row["label"]] > 0]
        if not wanted:
            test += groups[name]
        for row in wanted:
            if quota[row["label"]] > 0:
                quota[row["label"]] -= 1
                train.append(row)
    return train, test


def _copy(source: Path, folder: Path, rows: list[Row]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for row in rows:
        target = folder / row["file_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / row["file_name"], target)
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", "label", "group"])
        writer.writeheader()
        writer.writerows(rows)
