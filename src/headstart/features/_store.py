"""A content-addressed, append-only store of equal rows, memory-mapped and shared between runs and processes.

One folder per key holds ``data.bin`` (the rows) and ``index.bin`` (one 32-byte digest per row). A row counts once its
digest is in the index, and the digest is written after the row; so a kill at any moment loses at most the last append.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headstart._errors import HeadstartError
from headstart._runtime import atomic_write, cache_dir, plain_disk_errors
from headstart.modalities import Array

DIGEST = 32
DEFAULT_LIMIT = 20 * 10**9  # bytes


_open: weakref.WeakSet[Rows] = weakref.WeakSet()


class Rows:
    """Rows of one kind of feature, by example digest."""

    def __init__(self, key: Mapping[str, Any]) -> None:
        text = json.dumps(key, sort_keys=True)
        self.folder = features_dir() / hashlib.sha256(text.encode()).hexdigest()[:32]
        self._key = text
        self._shape: tuple[int, ...] | None = None
        self._dtype: np.dtype[Any] | None = None
        self._position: dict[bytes, int] = {}
        self._read = 0
        self.refresh()
        _open.add(self)

    def refresh(self) -> None:
        """Take notice of what other runs have added, or deleted. A row counts if both its files hold it whole."""
        if self._shape is None and not self._describe():
            return
        stored = _size(self.folder / "data.bin") // max(1, self._row_bytes)
        if stored < self._read:  # cleared or pruned by another run
            self._position, self._read = {}, 0
        if not _size(self.folder / "index.bin"):
            return
        with (self.folder / "index.bin").open("rb") as file:
            file.seek(self._read * DIGEST)
            data = file.read((stored - self._read) * DIGEST)
        for start in range(0, len(data) - DIGEST + 1, DIGEST):
            self._position[data[start : start + DIGEST]] = self._read
            self._read += 1

    def _describe(self) -> bool:
        """Read what kind of rows there are; False if there are none yet, or nobody can tell."""
        about = self.folder / "about.json"
        try:
            meta = json.loads(about.read_text())
            self._shape, self._dtype = tuple(meta["shape"]), np.dtype(meta["dtype"])
            os.utime(about)  # the mark that pruning goes by
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self._shape or (0,), dtype=np.int64)) * (self._dtype.itemsize if self._dtype else 0)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._position

    def append(self, digests: Sequence[bytes], rows: Array) -> None:
        """Add rows [n, …]; digests already there are left as they are. Safe against other processes."""
        from filelock import FileLock

        with plain_disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock"):
                self._begin(rows)
                self.refresh()
                fresh = {d: i for i, d in enumerate(digests) if d not in self._position}
                if not fresh:
                    return
                block = np.ascontiguousarray(rows[list(fresh.values())], dtype=self._dtype)
                _write_at(self.folder / "data.bin", self._read * block[0].nbytes, block.tobytes())
                _write_at(self.folder / "index.bin", self._read * DIGEST, b"".join(fresh))
                self.refresh()

    def _begin(self, rows: Array) -> None:
        self.refresh()
        if self._shape is None or not (self.folder / "about.json").is_file():
            meta = {"shape": rows.shape[1:], "dtype": rows.dtype.str, "key": self._key}
            atomic_write(self.folder / "about.json", json.dumps(meta).encode())
            self.refresh()
        if rows.shape[1:] != self._shape:
            raise HeadstartError(
                f"the cache {self.folder} holds rows of {self._shape}, not {rows.shape[1:]}; "
                "run `headstart cache --clear`"
            )

    def gather(self, digests: Sequence[bytes]) -> Array:
        """Rows [n, …] for digests that are all present, as one array in memory."""
        places = self.positions(digests)
        return np.asarray(self.mapped()[places])

    def positions(self, digests: Sequence[bytes]) -> Array:
        """Row numbers [n] in ``mapped()``."""
        try:
            return np.array([self._position[d] for d in digests], dtype=np.int64)
        except KeyError as error:
            raise self._gone() from error

    def mapped(self) -> Array:
        """Every row, memory-mapped, read-only."""
        if self._shape is None or self._dtype is None or not self._read:
            return np.empty((0,), np.uint8)
        try:
            return np.memmap(self.folder / "data.bin", self._dtype, "r", shape=(self._read, *self._shape))
        except (FileNotFoundError, ValueError) as error:
            raise self._gone() from error

    def _gone(self) -> HeadstartError:
        return HeadstartError(f"the cache {self.folder} was cleared while in use; run the same command again")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _write_at(path: Path, offset: int, data: bytes | memoryview) -> None:
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(offset)
        file.write(data)
        file.flush()
        file.truncate()


def features_dir() -> Path:
    """Folder of all stored features."""
    return cache_dir() / "features"


def size_limit() -> int:
    """Bytes the feature cache may hold: ``HEADSTART_CACHE_LIMIT`` in GB, 20 by default."""
    text = os.environ.get("HEADSTART_CACHE_LIMIT")
    if not text:
        return DEFAULT_LIMIT
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()) is None:
        raise HeadstartError(f"HEADSTART_CACHE_LIMIT is {text!r}; it takes a number of GB, such as 20")
    return int(float(text) * 1e9)


def usage() -> list[tuple[Path, int, float]]:
    """(folder, bytes, last use) of everything stored, the least recently used first."""
    found = []
    for about in features_dir().glob("*/about.json"):
        size = sum(f.stat().st_size for f in about.parent.iterdir())
        found.append((about.parent, size, about.stat().st_mtime))
    return sorted(found, key=lambda entry: entry[2])


def prune(limit: int | None = None) -> int:
    """Delete the least recently used features until the cache fits ``limit`` bytes, but none that this process still
    holds open; returns bytes freed."""
    limit = size_limit() if limit is None else limit
    entries, keep = usage(), {rows.folder for rows in _open}
    freed = 0
    excess = sum(size for _, size, _ in entries) - limit
    for folder, size, _ in entries:
        if freed >= excess:
            break
        if folder not in keep:
            shutil.rmtree(folder, ignore_errors=True)
            freed += size
    return freed


def clear_cache() -> int:
    """Delete stored features, converted weights and unfinished runs; returns bytes freed."""
    freed = 0
    for name in ("features", "sources", "runs"):
        place = cache_dir() / name
        freed += sum(f.stat().st_size for f in place.rglob("*") if f.is_file())
        shutil.rmtree(place, ignore_errors=True)
    return freed
