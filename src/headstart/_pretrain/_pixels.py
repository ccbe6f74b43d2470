"""All images of a target decoded once into one flat file of bytes, read back memory-mapped."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from headstart._errors import BadExample, DataError
from headstart._runtime import atomic_write, cores, plain_disk_errors, progress
from headstart.modalities import Array, Example, Preprocessing, digest
from headstart.targets import Target

MOST_BAD = 0.10  # share of unreadable examples above which training stops
_CHUNK = 256


@dataclass(frozen=True)
class Pixels:
    """``images`` uint8 [n, H, W, C], memory-mapped; ``rows`` [n]: which examples of the target they are."""

    images: Array
    rows: Array
    bad: dict[str, str]


def fingerprint(target: Target) -> str:
    """Hex digest of what there is to learn from: contents (files by path, size and time), labels, classes."""
    total = hashlib.sha256(json.dumps(target.classes).encode())
    total.update(np.ascontiguousarray(target.labels, dtype=np.int64).tobytes())
    for example in target.examples:
        total.update(_mark(example))
    return total.hexdigest()


def _mark(example: Example) -> bytes:
    if not isinstance(example.content, Path):
        return digest(example.content)
    try:
        facts = example.content.stat()
    except OSError:  # counted as unreadable when it is decoded
        return f"{example.content} missing".encode()
    return f"{example.content} {facts.st_size} {facts.st_mtime_ns}".encode()


def decode_all(
    target: Target, data_digest: str, preprocessing: Preprocessing, work: Path, allow_bad: bool = False
) -> Pixels:
    """Decode every example into ``work`` (or find it done there); unreadable ones are left out and listed.

    Raises DataError above 10 % unreadable examples unless ``allow_bad``, or when the disk has no room.
    """
    store, done = work / "pixels.u8", work / "pixels.json"
    height, width = preprocessing["size"]
    shape = (height, width, int(preprocessing["channels"]))
    key = json.dumps([data_digest, target.modality.version, dict(preprocessing)], sort_keys=True)
    if not done.is_file() or json.loads(done.read_text(encoding="utf-8"))["key"] != key:
        done.unlink(missing_ok=True)
        _check_room(len(target) * int(np.prod(shape)), work)
        rows, bad = _write(target, preprocessing, store)
        atomic_write(done, json.dumps({"key": key, "rows": rows, "bad": bad}).encode())
    facts = json.loads(done.read_text(encoding="utf-8"))
    _check_bad(facts["bad"], len(target), allow_bad)
    kept = np.array(facts["rows"], dtype=np.int64)
    return Pixels(np.memmap(store, np.uint8, "r", shape=(len(kept), *shape)), kept, facts["bad"])


def _write(target: Target, preprocessing: Preprocessing, store: Path) -> tuple[list[int], dict[str, str]]:
    rows: list[int] = []
    bad: dict[str, str] = {}

    def read(example: Example) -> Array | str:
        try:
            decoded = target.modality.decode(example.raw(), preprocessing)
            image: Array = target.modality.prepare(decoded, preprocessing)
            return image
        except BadExample as error:
            return str(error)

    with (
        plain_disk_errors(store),
        store.open("wb") as file,
        ThreadPoolExecutor(cores()) as pool,
        progress("decoding", len(target), "images") as advance,
    ):
        position = 0
        for chunk in _chunks(iter(target.examples)):
            for example, image in zip(chunk, pool.map(read, chunk)):
                if isinstance(image, str):
                    bad[example.name] = image
                else:
                    file.write(np.ascontiguousarray(image).tobytes())
                    rows.append(position)
                position += 1
            advance(len(chunk))
    return rows, bad


def _chunks(examples: Iterator[Example]) -> Iterator[list[Example]]:
    while chunk := list(islice(examples, _CHUNK)):
        yield chunk


def _check_room(needed: int, work: Path) -> None:
    free = shutil.disk_usage(work).free
    if needed > free:
        raise DataError(
            f"the decoded images need {needed / 1e9:.1f} GB beside {work} and {free / 1e9:.1f} GB are free; "
            "choose a smaller size, or an output folder on another disk"
        )


def _check_bad(bad: dict[str, str], n: int, allow_bad: bool) -> None:
    if allow_bad or len(bad) <= MOST_BAD * n:
        return
    name, reason = next(iter(bad.items()))
    raise DataError(
        f"{len(bad)} of {n} images cannot be read (first: {name}: {reason}); more than {MOST_BAD:.0%} is taken "
        "as a mistake: mend or remove them, or pass allow_bad=True"
    )
