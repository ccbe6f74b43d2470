"""Multinomial logistic regression with a ridge penalty, by L-BFGS: scikit-learn's objective, steps and tolerances.

Written out because importing scikit-learn takes longer than everything that a second fit of a small set does, and
because features may stay float32 here, which halves the memory of large sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from headstart.modalities import Array

ITERATIONS = 300
GRADIENT = 1e-3  # largest entry of the gradient of the mean loss at which the search ends

Solution = tuple[Array, Array]
"""coef [k, r] and intercept [k]; k is 1 for two classes (the score of the second against the first)."""


def solve(x: Array, labels: Array, penalties: Sequence[float]) -> Iterator[Solution]:
    """One solution per inverse strength C as it is asked for, each starting from the one before.

    ``x`` [n, r] float32 or float64, ``labels`` [n] from 0 to k - 1, each present. Minimised is
    C · (sum of the log-losses) + ½ ‖coef‖², divided by C · n.
    """
    from scipy.optimize import minimize

    k = int(labels.max()) + 1
    loss = _two(x, labels) if k == 2 else _several(x, labels, k)
    rows = 1 if k == 2 else k
    start = np.zeros(rows * (x.shape[1] + 1))
    for c in penalties:
        ridge = 1 / (c * len(x))

        def objective(flat: Array, ridge: float = ridge) -> tuple[float, Array]:
            weights = flat.reshape(rows, -1)
            value, gradient = loss(weights)
            gradient[:, :-1] += ridge * weights[:, :-1]
            return value + 0.5 * ridge * float((weights[:, :-1] ** 2).sum()), gradient.ravel()

        options = {"maxiter": ITERATIONS, "maxls": 50, "gtol": GRADIENT, "ftol": 64 * np.finfo(float).eps}
        start = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
        solution = start.reshape(rows, -1).copy()
        yield solution[:, :-1], solution[:, -1]


_Loss = Callable[[Array], tuple[float, Array]]
"""Weights [rows, r + 1], the intercept last → mean log-loss and its gradient, float64."""


def _two(x: Array, labels: Array) -> _Loss:
    truth = labels.astype(x.dtype)

    def loss(weights: Array) -> tuple[float, Array]:
        z = x @ weights[0, :-1].astype(x.dtype) + x.dtype.type(weights[0, -1])
        residual = 0.5 * (1 + np.tanh(0.5 * z)) - truth
        return float((np.logaddexp(0, z) - truth * z).mean(dtype=float)), _gradient(x, residual[:, None])

    return loss


def _several(x: Array, labels: Array, k: int) -> _Loss:
    rows = np.arange(len(x))

    def loss(weights: Array) -> tuple[float, Array]:
        z = x @ weights[:, :-1].T.astype(x.dtype) + weights[:, -1].astype(x.dtype)
        z -= z.max(axis=1, keepdims=True)
        true = z[rows, labels]
        np.exp(z, out=z)
        total = z.sum(axis=1)
        value = float((np.log(total) - true).mean(dtype=float))
        z /= total[:, None]
        z[rows, labels] -= 1
        return value, _gradient(x, z)

    return loss


def _gradient(x: Array, residual: Array) -> Array:
    slopes = np.concatenate([residual.T @ x, residual.sum(axis=0, dtype=float)[:, None]], axis=1)
    gradient: Array = slopes.astype(float) / len(x)
    return gradient
