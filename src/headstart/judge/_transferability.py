"""How well frozen features suit labels, without training anything: for shortlisting sources."""

from __future__ import annotations

import numpy as np

from headstart.modalities import Array

ROUNDS = 50


def log_me(features: Array, labels: Array) -> float:
    """Log evidence per example of a Bayesian linear model from ``features`` [n, d] to each class of ``labels`` [n].

    The larger the better; averaged over classes. From "LogME: Practical Assessment of Pre-trained Models for
    Transfer Learning" (You et al., ICML 2021), on standardised features. Good for a shortlist, poor for picking one.
    """
    x = features.astype(np.float64)
    x -= x.mean(axis=0)
    deviation = x.std(axis=0)
    x /= np.where(deviation > 1e-8, deviation, np.inf)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    keep = s > 1e-6 * max(float(s[0]), 1e-30)
    u, spectrum = u[:, keep], s[keep] ** 2
    return float(np.mean([_evidence(u, spectrum, (labels == c).astype(float)) for c in np.unique(labels)]))


def _evidence(u: Array, spectrum: Array, y: Array) -> float:
    """Maximum over the prior's precision ``alpha`` and the noise's ``beta``, by fixed-point iteration."""
    n = len(y)
    y = y - y.mean()
    z = (u.T @ y) ** 2
    outside = max(0.0, float(y @ y - z.sum()))
    alpha = beta = 1.0
    for _ in range(ROUNDS):
        ratio = alpha / beta
        known = spectrum / (spectrum + ratio)  # how far each direction is determined by the data
        gamma = float(known.sum())
        weight = max(1e-12, float((known**2 * z / spectrum).sum()))
        residual = max(1e-12, float(((1 - known) ** 2 * z).sum()) + outside)
        alpha, beta = max(1e-12, gamma / weight), max(1e-12, n - gamma) / residual
        if abs(alpha / beta - ratio) <= 1e-4 * ratio:
            break
    fit = -0.5 * (np.log(alpha + beta * spectrum) - np.log(alpha)).sum() + 0.5 * n * (np.log(beta) - np.log(2 * np.pi))
    return float(fit - 0.5 * beta * residual - 0.5 * alpha * weight) / n
