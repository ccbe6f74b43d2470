"""The user's task: examples, labels, groups, classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headstart.modalities import Array, Example, Modality


@dataclass(frozen=True, slots=True)
class Target:
    """Labelled examples of one modality.

    ``labels`` [n] are positions in ``classes`` (sorted names). ``groups`` [n] are strings, "" where unknown
    (such an example is its own group), or None when nothing is known of groups. ``test`` is the part kept
    aside by the user's own layout (``test/`` or ``val/`` folder), with the same classes; None without one.
    ``notes`` are plain sentences of what reading noticed (columns guessed, folders passed over).
    """

    examples: Sequence[Example]
    labels: Array
    classes: tuple[str, ...]
    modality: Modality
    groups: Array | None = None
    test: Target | None = None
    notes: tuple[str, ...] = ()
    name: str = "data"
    skipped: dict[str, str] = field(default_factory=dict)
    """Name → reason, for everything that lay there and could not be an example (non-image files …)."""

    def __len__(self) -> int:
        return len(self.examples)

    def take(self, rows: Array) -> Target:
        """The target with only these rows (positions or a mask), same classes and test part."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        groups: Any = None if self.groups is None else self.groups[rows]
        return Target(
            [self.examples[i] for i in rows.tolist()],
            self.labels[rows],
            self.classes,
            self.modality,
            groups,
            self.test,
            self.notes,
            self.name,
            self.skipped,
        )

    def group_codes(self) -> Array:
        """int [n]: a number per group; an example without a group is its own."""
        own = np.array([f"\0{i}" for i in range(len(self))], dtype=object)
        names = own if self.groups is None else np.where(self.groups == "", own, self.groups)
        return np.unique(names.astype(str), return_inverse=True)[1]
