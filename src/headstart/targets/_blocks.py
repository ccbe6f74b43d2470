"""Blocks: sets of rows that must stay on one side of every split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from headstart.modalities import Array


def equal_content(digests: Sequence[bytes | None]) -> list[tuple[int, int]]:
    """(first, later) rows of equal digest; rows without one are passed over."""
    first: dict[bytes, int] = {}
    pairs = []
    for row, digest in enumerate(digests):
        if digest is not None and first.setdefault(digest, row) != row:
            pairs.append((first[digest], row))
    return pairs


def equal_groups(groups: Array | None) -> list[tuple[int, int]]:
    """(first, later) rows of equal group; "" is no group."""
    return equal_content([str(g).encode() or None for g in groups]) if groups is not None else []


def merge(n: int, *links: Iterable[tuple[int, int]]) -> Array:
    """int [n]: a number for each set of rows that the ``links`` connect, in order of first appearance."""
    parent = list(range(n))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for pairs in links:
        for one, two in pairs:
            low, high = sorted((root(one), root(two)))
            parent[high] = low
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(root(row), len(numbers)) for row in range(n)], np.int64)
