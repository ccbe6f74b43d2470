"""How good predictions are: accuracy, balanced accuracy, AUROC, log-loss, with 95 % intervals over groups."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from headstart.modalities import Array

DRAWS = 1000
MANY = 10_000  # examples above which a fifth of the draws is as good
FLOOR = 1e-6  # smallest probability that the log-loss sees


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def percent(self) -> str:
        """As text: ``94.0 % (88.1–97.2)``."""
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f}–{100 * self.high:.1f})"

    def plain(self) -> str:
        """As text: ``0.21 (0.15–0.30)``."""
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f})"


@dataclass(frozen=True, slots=True)
class Score:
    """Figures of one set of predictions; ``auroc`` is None where a class is missing on one side."""

    accuracy: Estimate
    balanced_accuracy: Estimate
    auroc: Estimate | None
    log_loss: Estimate
    examples: int
    groups: int

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return asdict(self)


def score(probabilities: Array, labels: Array, groups: Array, *, seed: int = 0, draws: int = DRAWS) -> Score:
    """Judge probabilities [n, k] against labels [n]; intervals by bootstrap over ``groups`` [n].

    The interval of the accuracy is Wilson's with the effective number of examples that the bootstrap over groups
    implies, so that a score without any error has an honest lower end; the others are bootstrap percentiles.
    """
    right = (probabilities.argmax(axis=1) == labels).astype(float)
    samples = _resamples(groups, seed, draws if len(labels) <= MANY else draws // 5)
    losses = -np.log(np.clip(probabilities[np.arange(len(labels)), labels], FLOOR, 1.0))
    balanced = np.array([_balanced(right[rows], labels[rows]) for rows in samples])
    means = np.array([losses[rows].mean() for rows in samples])
    accuracies = np.array([right[rows].mean() for rows in samples])
    n_groups = len(np.unique(groups))
    accuracy = float(right.mean())
    return Score(
        Estimate(accuracy, *_wilson(accuracy, accuracies, n_groups)),
        _around(_balanced(right, labels), balanced),
        _auroc(probabilities, labels, samples[: max(20, min(200, int(4e7 / probabilities.size)))]),
        _around(float(losses.mean()), means),
        len(labels),
        n_groups,
    )


def _resamples(groups: Array, seed: int, draws: int) -> list[Array]:
    """Row numbers of bootstrap samples of whole groups."""
    random = np.random.default_rng(seed)
    _, codes = np.unique(groups, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    if len(members) == len(codes):
        return [random.integers(len(codes), size=len(codes)) for _ in range(draws)]
    return [
        np.concatenate([members[g] for g in random.integers(len(members), size=len(members))]) for _ in range(draws)
    ]


def _balanced(right: Array, labels: Array) -> float:
    """Mean over the classes that occur of the share that is right."""
    total = np.bincount(labels)
    hits = np.bincount(labels, right, minlength=len(total))
    return float(np.mean(hits[total > 0] / total[total > 0]))


def _percentiles(values: Array) -> tuple[float, float]:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def _around(value: float, resampled: Array) -> Estimate:
    """With percentiles of the bootstrap, which holds the value itself even where resampling shifts it (many classes
    with one example each)."""
    low, high = _percentiles(resampled)
    return Estimate(value, min(low, value), max(high, value))


def _wilson(value: float, resampled: Array, n_groups: int, z: float = 1.96) -> tuple[float, float]:
    spread = float(resampled.var())
    n = value * (1 - value) / spread if spread > 0 else n_groups
    centre, half = value + z * z / (2 * n), z * np.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return (float(max(0.0, low)) if value > 0 else 0.0), (float(min(1.0, high)) if value < 1 else 1.0)


def _auroc(probabilities: Array, labels: Array, samples: list[Array]) -> Estimate | None:
    """One class against the rest, averaged over classes; None if some class is everything or nothing."""
    classes = np.unique(labels)
    if len(classes) < 2:
        return None
    ranks = {int(c): _ranks(probabilities[:, c]) for c in classes}

    def value(rows: Array) -> float:
        found = []
        for c in classes:
            positive = labels[rows] == c
            n, m = int(positive.sum()), int((~positive).sum())
            if n and m:
                within = _ranks(ranks[int(c)][rows])
                found.append((within[positive].sum() - n * (n + 1) / 2) / (n * m))
        return float(np.mean(found)) if found else float("nan")

    whole = value(np.arange(len(labels)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return _around(whole, np.array([value(rows) for rows in samples]))


def _ranks(values: Array) -> Array:
    """Ranks [n] from 1, ties averaged, as scipy.stats.rankdata (whose import takes half a second)."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    ends = np.append(np.flatnonzero(first), len(values))
    place = np.cumsum(first) - 1
    ranks = np.empty(len(values))
    ranks[order] = 0.5 * (ends[place] + 1 + ends[place + 1])
    return ranks


def paired_difference(ours: Array, theirs: Array, groups: Array, *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """Mean of ``ours - theirs`` [n] (per-example correctness) with a 95 % bootstrap interval over groups.

    With no spread at all (the two agree everywhere) the interval is what n groups can exclude: ± 3.7 / n, the exact
    bound for no event among n.
    """
    difference = ours.astype(float) - theirs.astype(float)
    values = np.array(
        [difference[rows].mean() for rows in _resamples(groups, seed, draws if len(ours) <= MANY else draws // 5)]
    )
    low, high = _percentiles(values)
    bound = 3.7 / max(1, len(np.unique(groups)))
    value = float(difference.mean())
    if high - low < 1e-12:
        low, high = max(-1.0, value - bound), min(1.0, value + bound)
    return Estimate(value, low, high)


def standard_error(ours: Array, theirs: Array, groups: Array) -> float:
    """Standard error of the mean paired difference, over groups; one made-up group each way is added, so that a
    single one that differs does not count as certain (after Agresti and Min, Statistics in Medicine 2005)."""
    difference = ours.astype(float) - theirs.astype(float)
    _, codes = np.unique(groups, return_inverse=True)
    sums = np.bincount(codes, difference - difference.mean())
    return float(np.sqrt((sums**2).sum() + 2 * (len(difference) / len(sums)) ** 2) / len(difference))
