"""``extract``: the network stays as it is; only a new head learns, on cached features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headstart._errors import OptionError
from headstart.adapt._head import Head
from headstart.adapt._job import Candidate, Fitted, Job
from headstart.adapt._mlp import fit_mlp
from headstart.adapt._probe import fit_probe
from headstart.modalities import Array


@dataclass(frozen=True, slots=True)
class _Fitted:
    job: Job
    head: Head
    facts: Mapping[str, Any]
    network: None = None

    def logits(self, rows: Array) -> Array:
        return self.head.logits(self.job.pooled.take(rows))


@dataclass(frozen=True, slots=True)
class _Probe:
    """A head on the network's output (``depth`` None), on one stage (an int), or on all depths side by side."""

    depth: int | str | None
    head: str
    strategy: str = "extract"
    parallel: bool = False

    @property
    def name(self) -> str:
        cut = f", cut after stage {self.depth}"
        where = "" if self.depth is None else " from all depths" if self.depth == "all" else cut
        return f"extract{where}" + (" (mlp head)" if self.head == "mlp" else "")

    def seconds(self, job: Job, n_fits: int) -> float:
        first, last = job.columns(self.depth)
        n = len(job.labels)
        rank = min(n, last - first)
        slower = 20 if self.head == "mlp" else 1
        return n_fits * slower * (0.1 + 1e-7 * n * rank * job.n_classes + 3e-10 * n * n * rank)

    @property
    def epochs(self) -> int:
        return 0

    def within(self, job: Job, seconds: float, n_fits: int) -> _Probe:
        return self

    def fit(self, job: Job, train: Array, step: str, facts: Sequence[Mapping[str, Any]] = ()) -> Fitted:
        first, last = job.columns(self.depth)
        features = job.pooled.take(train)[:, first:last]
        labels, blocks = job.labels[train], job.blocks[train]
        if self.head == "mlp":
            layers = fit_mlp(features, labels, job.n_classes, blocks, seed=job.seed)
            return _Fitted(job, Head(layers, first, last), {})
        linear = fit_probe(features, labels, job.n_classes, blocks, seed=job.seed)
        return _Fitted(job, Head([(linear.weight, linear.bias)], first, last), {"penalty": linear.penalty})


class Extract:
    """Feature extraction: the last layer's features, or several depths at once (Head2Toe, ICML 2022)."""

    name, cost, transfers, trains = "extract", 0, True, False

    def candidates(self, job: Job) -> list[Candidate]:
        """The network's output, then all depths; with ``cut`` only that stage (or "all")."""
        if job.head not in ("linear", "mlp"):
            raise OptionError(f"no head is called {job.head!r}; choose linear or mlp")
        stages = len(job.source.stages)
        if isinstance(job.cut, int) and not 1 <= job.cut <= stages:
            has = f"stages 1 to {stages}" if stages else "no stages"
            raise OptionError(f"--cut {job.cut} does not exist: {job.source.name} has {has}")
        if job.cut is not None:
            return [_Probe(job.cut, job.head)]
        depths = [None, "all"] if job.source.facts["stages"] else [None]
        return [_Probe(depth, job.head) for depth in depths]


STRATEGY = Extract()
