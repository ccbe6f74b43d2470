"""Probabilities that mean what they say: temperature scaling (Guo et al., ICML 2017) on out-of-fold logits."""

from __future__ import annotations

import numpy as np

from headstart.modalities import Array

LOW, HIGH = 0.05, 20.0


def softmax(logits: Array, temperature: float = 1.0) -> Array:
    """[n, k] logits → probabilities that sum to one."""
    scaled = logits.astype(np.float64) / temperature
    exponent = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    found: Array = exponent / exponent.sum(axis=1, keepdims=True)
    return found


def fit_temperature(logits: Array, labels: Array) -> float:
    """The temperature in [0.05, 20] with the smallest log-loss; one example more that is wrong keeps it finite.

    ``logits`` [n, k] must be predictions for examples that the model had not learnt from.
    """
    from scipy.optimize import minimize_scalar

    if not len(labels):
        return 1.0
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        probabilities = softmax(logits, float(np.exp(log_temperature)))
        mistake = np.log(np.clip(1 - probabilities.max(axis=1), 1e-12, 1)).mean()
        return float(-np.log(np.clip(probabilities[rows, labels], 1e-12, 1)).sum() - 0.5 * mistake)

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(LOW), np.log(HIGH)), method="bounded").x))


def cross_calibrated(logits: Array, labels: Array, folds: list[Array]) -> Array:
    """Probabilities [n, k] where each fold's temperature comes from the other folds."""
    out = np.zeros(logits.shape)
    for held in folds:
        others = np.setdiff1d(np.concatenate(folds), held)
        out[held] = softmax(logits[held], fit_temperature(logits[others], labels[others]))
    return out


def calibration_error(probabilities: Array, labels: Array, bins: int = 10) -> float:
    """Expected calibration error of the top class over equally filled bins."""
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    parts = np.array_split(np.argsort(sure), min(bins, len(sure)))
    return float(sum(len(p) * abs(sure[p].mean() - right[p].mean()) for p in parts) / len(sure))
