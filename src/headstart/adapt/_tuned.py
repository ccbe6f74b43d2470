"""Candidates that retrain a part of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from headstart._runtime import half_the_cores
from headstart.adapt._job import Fitted, Job
from headstart.modalities import Array

EPOCHS_SEEN = 0.7  # share of the epochs that early stopping usually lets run
SHORTEST = 8  # epochs below which training from scratch says nothing
SHARING = 0.7  # wall time per fit when folds train side by side, against one alone


@dataclass(frozen=True, slots=True)
class Retrain:
    """A candidate around ``tune``; ``options`` are the fields of ``Tuning``."""

    name: str
    strategy: str
    options: tuple[tuple[str, Any], ...]
    parallel: bool = True

    def seconds(self, job: Job, n_fits: int) -> float:
        """From a measured training step; a pass over held-out rows costs a third of one."""
        from headstart.adapt._tune import Tuning, seconds_per_example

        tuning = Tuning(**dict(self.options))
        passes = EPOCHS_SEEN * tuning.epochs * len(job.labels) * 1.1
        with half_the_cores():
            return n_fits * seconds_per_example(job, tuning) * passes * SHARING

    def fit(self, job: Job, train: Array, step: str, facts: Sequence[Mapping[str, Any]] = ()) -> Fitted:
        """Train with early stopping, or for the folds' median number of epochs when ``facts`` of folds are given."""
        from headstart.adapt._tune import Tuning, median_epochs, tune

        tuning = Tuning(**dict(self.options))
        with half_the_cores() if facts else nullcontext():  # folds run side by side and have their share
            return tune(job, tuning, train, step, epochs=median_epochs(facts, tuning) if facts else None)

    def within(self, job: Job, seconds: float, n_fits: int) -> Retrain:
        """The same with as many epochs as ``n_fits`` fits can have in ``seconds``: never more, at least SHORTEST."""
        from headstart.adapt._tune import Tuning

        epochs = Tuning(**dict(self.options)).epochs
        fitting = int(epochs * seconds / max(1e-9, self.seconds(job, n_fits)))
        if fitting >= epochs:
            return self
        options = dict(self.options) | {"epochs": max(SHORTEST, fitting)}
        return replace(self, options=tuple(sorted(options.items())))

    @property
    def epochs(self) -> int:
        """Length of the schedule."""
        from headstart.adapt._tune import Tuning

        return Tuning(**dict(self.options)).epochs


def retrain(strategy: str, name: str | None = None, **options: Any) -> Retrain:
    """A candidate by name and options."""
    return Retrain(name or strategy, strategy, tuple(sorted(options.items())))
