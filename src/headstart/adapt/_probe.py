"""The probe: multinomial logistic regression on standardised features, its penalty chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart._runtime import one_blas_thread
from headstart.modalities import Array
from headstart.targets import Folds, draw, split

PENALTIES = tuple(float(c) for c in np.logspace(-3, 4, 8))  # inverse strengths, for features scaled to unit length
ABSENT = 3.0  # how far below the average score a class stays that the training part did not have
INNER_FOLDS = 4
WORSE = 2  # penalties in a row without gain after which weaker ones, which take longest, are not tried in a fold
LARGE = 4000  # rows that are enough to choose a penalty on
SMALL = 600  # rows up to which one BLAS thread is fastest


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer on raw features: ``weight`` [k, d], ``bias`` [k]; standardisation is folded in."""

    weight: Array
    bias: Array
    penalty: float

    def logits(self, features: Array) -> Array:
        """[n, d] → [n, k]."""
        return features.astype(np.float32) @ self.weight.T + self.bias


def fit_probe(features: Array, labels: Array, n_classes: int, blocks: Array, *, seed: int) -> Linear:
    """Fit on features [n, d], labels [n]; the penalty minimises the log-loss over inner folds that keep ``blocks``.

    Classes that do not occur in ``labels`` get a fixed low score. Solved in the space that the rows span (at most n
    dimensions), which gives the same solution as in all d, since the penalty does not see rotations.
    """
    if len(np.unique(labels)) < 2:
        return _constant(features.shape[1], labels, n_classes)
    with one_blas_thread() if len(labels) <= SMALL else nullcontext():
        penalty = choose_penalty(features, labels, blocks, seed=seed)
        return next(_Space.of(features).fit(labels, n_classes, [penalty]))


def held_out_logits(features: Array, labels: Array, n_classes: int, blocks: Array, folds: Folds, *, seed: int) -> Array:
    """Logits [n, k] of every row by a probe that learnt from the other folds alone."""
    logits = np.zeros((len(labels), n_classes), np.float32)
    for train, held in folds:
        probe = fit_probe(features[train], labels[train], n_classes, blocks[train], seed=seed)
        logits[held] = probe.logits(features[held])
    return logits


def choose_penalty(features: Array, labels: Array, blocks: Array, *, seed: int) -> float:
    """The inverse strength with the smallest cross-validated log-loss; the middle one if nothing can be held out."""
    if len(labels) > LARGE:
        some = draw(labels, blocks, LARGE, seed)
        features, labels, blocks = features[some], labels[some], blocks[some]
    losses = np.zeros(len(PENALTIES))
    n_classes = int(labels.max()) + 1
    if len(np.unique(blocks)) < 2:
        return PENALTIES[len(PENALTIES) // 2]
    for train, held in split(labels, blocks, seed=seed, folds=INNER_FOLDS):
        if len(np.unique(labels[train])) < 2:
            continue
        found: list[float] = []
        for linear in _Space.of(features[train]).fit(labels[train], n_classes, PENALTIES):
            found.append(_log_loss(linear.logits(features[held]), labels[held]))
            if len(found) > int(np.argmin(found)) + WORSE:
                break
        losses += found + [found[-1]] * (len(PENALTIES) - len(found))
    return PENALTIES[int(np.argmin(losses))] if losses.any() else PENALTIES[len(PENALTIES) // 2]


def _log_loss(logits: Array, labels: Array) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]).sum())


@dataclass(frozen=True, slots=True)
class _Space:
    """Standardised features in coordinates of the space that their rows span."""

    mean: Array
    scale: Array
    basis: Array | None  # [d, r]; None: the features' own axes
    reduced: Array  # [n, r]

    @classmethod
    def of(cls, features: Array) -> _Space:
        x: Any = features.astype(np.float64 if len(features) <= LARGE else np.float32)  # a copy, changed in place
        mean = x.mean(axis=0, dtype=np.float64)
        x -= mean.astype(x.dtype)
        deviation = np.sqrt(np.einsum("ij,ij->j", x, x) / len(x)).astype(np.float64)
        scale = np.where(deviation > 1e-8, deviation, np.inf) * np.sqrt(x.shape[1])
        x /= scale.astype(x.dtype)
        if x.shape[0] >= x.shape[1]:
            return cls(mean, scale, None, x)
        values, vectors = np.linalg.eigh(x @ x.T)
        keep = values > 1e-10 * max(values[-1], 1e-30)
        basis = (x.T @ vectors[:, keep]) / np.sqrt(values[keep])
        return cls(mean, scale, basis, x @ basis)

    def fit(self, labels: Array, n_classes: int, penalties: Sequence[float]) -> Iterator[Linear]:
        """One solution per penalty, each starting from the one before."""
        from headstart.adapt._logistic import solve

        present, codes = np.unique(labels, return_inverse=True)
        for c, (coef, intercept) in zip(penalties, solve(self.reduced, codes, penalties)):
            yield self._unfold(coef, intercept, present, n_classes, c)

    def _unfold(self, coef: Array, intercept: Array, present: Array, n_classes: int, c: float) -> Linear:
        if len(present) == 2:
            coef, intercept = np.vstack([-coef, coef]) / 2, np.hstack([-intercept, intercept]) / 2
        coef = (coef if self.basis is None else coef @ self.basis.T) / self.scale
        weight = np.zeros((n_classes, coef.shape[1]), np.float32)
        bias = np.full(n_classes, intercept.min() - ABSENT, np.float32)
        weight[present], bias[present] = coef, intercept - coef @ self.mean
        if len(present) < n_classes:  # an absent class follows the average score, well below it
            absent = np.setdiff1d(np.arange(n_classes), present)
            weight[absent], bias[absent] = weight[present].mean(axis=0), bias[present].mean() - ABSENT
        return Linear(weight, bias, c)


def _constant(width: int, labels: Array, n_classes: int) -> Linear:
    bias = np.full(n_classes, -ABSENT, np.float32)
    bias[np.unique(labels)] = 0
    return Linear(np.zeros((n_classes, width), np.float32), bias, PENALTIES[0])
