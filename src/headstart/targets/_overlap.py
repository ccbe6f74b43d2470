"""A test part that repeats the training part measures memory, not skill: find and set aside what repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart._errors import DataError
from headstart.modalities import Array
from headstart.targets._blocks import equal_content
from headstart.targets._target import Target


@dataclass(frozen=True, slots=True, eq=False)
class Overlap:
    """What the test part shares with the training part. ``rows`` are the test rows fit for a score."""

    name: str
    repeated: tuple[tuple[str, str, str], ...]
    """(test name, training name, "exact" or "near"): left out of the score."""
    shared_groups: tuple[str, ...]
    """Groups (patients, speakers …) on both sides: kept, but the score is flattered by them."""
    unreadable: dict[str, str]
    rows: Array

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "name": self.name,
            "scored": len(self.rows),
            "repeated": [list(pair) for pair in self.repeated],
            "shared_groups": list(self.shared_groups),
            "unreadable": dict(self.unreadable),
        }

    def lines(self) -> list[str]:
        """The same for the terminal, one finding a line."""
        lines = [f"{self.name}: {len(self.rows)} examples are scored"]
        if self.repeated:
            test, train, _ = self.repeated[0]
            lines.append(
                f"{len(self.repeated)} test examples repeat a training example ({test!a} = {train!a} …): "
                "left out of the score"
            )
        if self.shared_groups:
            lines.append(
                f"{len(self.shared_groups)} groups stand in training and test ({self.shared_groups[0]!a} …): "
                "kept, but they flatter the score"
            )
        if self.unreadable:
            name, reason = next(iter(self.unreadable.items()))
            lines.append(f"{len(self.unreadable)} test examples cannot be read ({name!a} {reason} …): left out")
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())


def overlap(
    target: Target,
    digests: Sequence[bytes | None],
    plain: Array | None,
    test_digests: Sequence[bytes | None],
    test_plain: Array | None,
    problems: Mapping[int, str] | None = None,
) -> Overlap:
    """What ``target.test`` shares with ``target``, and which of its rows are fit for a score.

    ``digests`` and ``plain`` belong to the rows of ``target`` as it stands (after the audit), the others and
    ``problems`` (row → reason) to those of ``target.test``. A test example that repeats a training example is
    left out of the score; the training example stays. Raises DataError if there is no test part or if nothing
    of it is left.
    """
    test, n, bad = target.test, len(target), problems or {}
    if test is None:
        raise DataError(f"{target.name} has no test part; give one, or rely on the score by folds")
    seen = {n + later: (first, "exact") for first, later in _across(equal_content([*digests, *test_digests]), n)}
    if plain is not None and test_plain is not None:
        for first, later in _across(target.modality.near_duplicates(np.concatenate([plain, test_plain])), n):
            seen.setdefault(n + later, (first, "near"))
    repeated = {row - n: found for row, found in sorted(seen.items()) if row - n not in bad}
    rows = np.array([r for r in range(len(test)) if r not in bad and r not in repeated], np.int64)
    if not len(rows):
        raise DataError(
            f"nothing of {test.name} is left to score: {len(repeated)} repeat a training example, "
            f"{len(bad)} cannot be read; give other test examples"
        )
    return Overlap(
        name=test.name,
        repeated=tuple((test.examples[r].name, target.examples[t].name, how) for r, (t, how) in repeated.items()),
        shared_groups=_shared(target.groups, test.groups),
        unreadable=dict(test.skipped) | {test.examples[row].name: why for row, why in bad.items()},
        rows=rows,
    )


def _across(pairs: Sequence[tuple[int, int]], n: int) -> list[tuple[int, int]]:
    """(training row, test row) for the pairs that span the border at ``n``."""
    return [(min(p), max(p) - n) for p in pairs if min(p) < n <= max(p)]


def _shared(one: Array | None, two: Array | None) -> tuple[str, ...]:
    if one is None or two is None:
        return ()
    return tuple(sorted(({str(g) for g in one} & {str(g) for g in two}) - {""}))
