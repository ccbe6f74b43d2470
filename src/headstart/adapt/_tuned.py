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
SHORTEST = 12  # epochs below which training from scratch says nothing
SHARING = 0.7  # wall time per fit when folds train side by side, against one alone


@dataclass(frozen=True, slots=True)
class Tuning:
    """What is trained, and how. Rates are per AdamW step at the top of the network."""

    cut: int = 0
    only_vectors: bool = False
    """Train just the head and the one-dimensional parameters (norms, biases)."""
    pretrained: bool = True
    lr: float = 3e-4
    head_lr: float = 1e-3
    rate_decay: float = 0.7
    """Factor on the learning rate per stage further down."""
    weight_decay: float = 0.01
    epochs: int = 20
    patience: int | None = 6
    """Epochs without gain on a held-out part after which training ends. None: the whole schedule, on all rows."""
    batch: int = 16
    cached: bool = True
    """False recomputes the frozen part in every step: only there to measure what the cache gains."""


@dataclass(frozen=True, slots=True)
class Retrain:
    """A candidate around ``tune``."""

    name: str
    strategy: str
    tuning: Tuning
    parallel: bool = True

    @property
    def epochs(self) -> int:
        """Length of the schedule."""
        return self.tuning.epochs

    def seconds(self, job: Job, n_fits: int) -> float:
        """From a measured training step; a pass over held-out rows costs a third of one."""
        from headstart.adapt._tune import seconds_per_example

        seen = EPOCHS_SEEN if self.tuning.patience is not None else 1.0
        passes = seen * self.tuning.epochs * len(job.labels) * 1.1
        with half_the_cores():
            return n_fits * seconds_per_example(job, self.tuning) * passes * SHARING

    def within(self, job: Job, seconds: float, n_fits: int) -> Retrain:
        """The same with as many epochs as ``n_fits`` fits can have in ``seconds``: never more, at least SHORTEST."""
        fitting = int(self.epochs * seconds / max(1e-9, self.seconds(job, n_fits)))
        if fitting >= self.epochs:
            return self
        return replace(self, tuning=replace(self.tuning, epochs=max(SHORTEST, fitting)))

    def fit(self, job: Job, train: Array, step: str, facts: Sequence[Mapping[str, Any]] = ()) -> Fitted:
        """Train with early stopping, or for the folds' median number of epochs when ``facts`` of folds are given."""
        from headstart.adapt._tune import median_epochs, tune

        with half_the_cores() if facts else nullcontext():  # folds run side by side and have their share
            return tune(job, self.tuning, train, step, epochs=median_epochs(facts, self.tuning) if facts else None)


def retrain(strategy: str, name: str | None = None, **options: Any) -> Retrain:
    """A candidate by name and the fields of ``Tuning``."""
    return Retrain(name or strategy, strategy, Tuning(**options))
