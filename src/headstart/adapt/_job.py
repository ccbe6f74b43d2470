"""What every strategy works on, and what it hands back."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from headstart.adapt._head import Head
from headstart.adapt._journal import Journal
from headstart.features import INPUT, Features, extract
from headstart.modalities import Array, Example, Modality
from headstart.sources import Source


@dataclass(slots=True)
class Job:
    """A target as the strategies see it: readable examples only, with the pooled features of every depth.

    ``labels`` [n] in 0 … n_classes-1, ``blocks`` [n]: examples of one block never straddle a split.
    """

    source: Source
    modality: Modality
    examples: Sequence[Example]
    labels: Array
    n_classes: int
    blocks: Array
    pooled: Features
    seed: int
    journal: Journal
    head: str = "linear"
    cut: int | str | None = None
    views: int = 1
    _inputs: dict[str, Features] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def columns(self, where: int | str | None) -> tuple[int, int]:
        """First and last column of a depth in ``pooled``; see ``Source.columns``."""
        return self.source.columns(where)

    def inputs(self, kind: str) -> Features:
        """Features of another kind for all examples and views, extracted once per job."""
        with self._lock:
            if kind not in self._inputs:
                what = "preparing the input" if kind == INPUT else "computing the frozen part"
                self._inputs[kind] = extract(
                    self.source, self.modality, self.examples, kind=kind, views=self.views, what=what
                )
            return self._inputs[kind]


class Fitted(Protocol):
    """A candidate after learning."""

    @property
    def head(self) -> Head:
        """The new output layer or layers."""

    @property
    def network(self) -> Mapping[str, Any] | None:
        """The tuned network's state dict (torch tensors); None where the source's own weights are used unchanged."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What was learnt about learning: penalty, epochs, …"""

    def logits(self, rows: Array) -> Array:
        """[len(rows), n_classes] for rows of the job."""


class Candidate(Protocol):
    """One way to adapt. ``fit`` learns from the rows ``train`` alone."""

    @property
    def name(self) -> str:
        """What the user is shown."""

    @property
    def strategy(self) -> str:
        """Name of its strategy."""

    @property
    def parallel(self) -> bool:
        """Whether fits for several folds gain from running side by side."""

    def seconds(self, job: Job, n_fits: int) -> float:
        """Estimated wall time of ``n_fits`` fits."""

    def within(self, job: Job, seconds: float, n_fits: int) -> Candidate:
        """The same, shortened so that ``n_fits`` fits take no more than ``seconds``, as far as that makes sense."""

    @property
    def epochs(self) -> int:
        """Length of the training schedule; 0 where there is none."""

    def fit(self, job: Job, train: Array, step: str, facts: Sequence[Mapping[str, Any]] = ()) -> Fitted:
        """Learn from rows ``train``. ``facts`` of the fold fits are given for the final fit on all rows."""


def out_of_fold(candidate: Candidate, job: Job, fold: int, train: Array, held: Array) -> tuple[Array, dict[str, Any]]:
    """Logits of the held rows of one fold, from the journal if an interrupted run had finished them."""
    length = f"-{candidate.epochs}epochs" if candidate.epochs else ""  # a shortened control is another step
    step = f"{candidate.name}{length}-fold{fold}"
    known = job.journal.get(step)
    if known is not None:
        return known[0]["logits"], known[1]
    fitted = candidate.fit(job, train, step)
    logits, facts = np.asarray(fitted.logits(held), np.float32), dict(fitted.facts)
    job.journal.put(step, {"logits": logits}, facts)
    return logits, facts
