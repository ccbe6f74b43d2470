"""Choosing among candidates by their held-out predictions, and scoring the choice without flattering it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headstart.judge._metrics import standard_error
from headstart.modalities import Array


def choose(right: Sequence[Array], groups: Array) -> int:
    """Position of the candidate to keep; candidates [n] of 0/1 come the cheapest first.

    A dearer one replaces the present choice only if its mean is better by more than one standard error of the
    paired difference.
    """
    best = 0
    for i in range(1, len(right)):
        gain = float(right[i].mean() - right[best].mean())
        if gain > 0 and gain > standard_error(right[i], right[best], groups):
            best = i
    return best


def cross_fitted(right: Sequence[Array], groups: Array, folds: Sequence[Array]) -> Array:
    """For every example the candidate [n] that would be chosen by looking at the other folds alone.

    Scoring these predictions scores the procedure "choose, then predict" rather than the luckiest candidate.
    """
    chosen = np.zeros(len(groups), dtype=np.int64)
    for held in folds:
        others = np.setdiff1d(np.arange(len(groups)), held)
        chosen[held] = choose([r[others] for r in right], groups[others])
    return chosen


@dataclass(frozen=True, slots=True)
class Rivals:
    """Held-out logits [n, k] of several sources' probes, the default first, and which source was chosen."""

    logits: Sequence[Array]
    chosen: int

    def honest(self, ours: Array, labels: Array, groups: Array, folds: Sequence[Array]) -> Array:
        """``ours`` [n, k], made with the chosen source, as held-out logits of "choose a source, then adapt it": where
        the other folds would have chosen another source, that source's probe answers."""
        rights = [(logits.argmax(axis=1) == labels).astype(float) for logits in self.logits]
        pick = cross_fitted(rights, groups, folds)
        stacked = np.stack([ours if i == self.chosen else logits for i, logits in enumerate(self.logits)])
        found: Array = stacked[pick, np.arange(len(labels))]
        return found
