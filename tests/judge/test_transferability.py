"""The log evidence of frozen features."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.judge import log_me


def task(n: int, d: int, signal: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    features = random.normal(size=(n, d))
    features[:, :3] += signal * np.eye(3)[labels]
    return features, labels


@pytest.mark.parametrize(("n", "d"), [(200, 10), (60, 400)])
def test_more_signal_is_more_evidence(n: int, d: int) -> None:
    found = [log_me(*task(n, d, signal)) for signal in (0.0, 2.0, 6.0)]
    assert found == sorted(found)
    assert found[2] > found[0] + 0.05


def test_it_is_the_maximum_of_the_evidence_written_out() -> None:
    """Against the density of y under its Gaussian prior, maximised over a fine grid of both precisions."""
    features, labels = task(30, 5, 1.0)
    x = (features - features.mean(0)) / features.std(0)
    expected = []
    for c in range(3):
        y = (labels == c) - (labels == c).mean()
        best = -np.inf
        for alpha in np.logspace(-1, 4, 120):
            for beta in np.logspace(-1, 3, 120):
                covariance = np.eye(30) / beta + x @ x.T / alpha
                _, determinant = np.linalg.slogdet(covariance)
                density = -0.5 * (y @ np.linalg.solve(covariance, y) + determinant + 30 * np.log(2 * np.pi))
                best = max(best, density / 30)
        expected.append(best)
    assert log_me(features, labels) == pytest.approx(np.mean(expected), abs=2e-3)


def test_scale_shift_and_constant_columns_do_not_matter() -> None:
    features, labels = task(50, 8, 2.0)
    wider = np.hstack([features * 7 + 3, np.ones((50, 4))])
    assert log_me(wider, labels) == pytest.approx(log_me(features, labels), abs=1e-6)
