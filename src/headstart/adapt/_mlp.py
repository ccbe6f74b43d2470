"""A head of several new layers on cached features."""

from __future__ import annotations

import warnings

import numpy as np

from headstart.adapt._probe import ABSENT, Linear, fit_probe
from headstart.modalities import Array
from headstart.targets import split

HIDDEN = (256,)
DECAYS = (0.1, 1.0, 10.0)  # weight decay, tried inside the folds


def fit_mlp(features: Array, labels: Array, n_classes: int, blocks: Array, *, seed: int) -> list[tuple[Array, Array]]:
    """Dense layers (weight [out, in], bias [out]) on raw features [n, d]; weight decay chosen over inner folds."""
    if len(np.unique(labels)) < 2:
        linear: Linear = fit_probe(features, labels, n_classes, blocks, seed=seed)
        return [(linear.weight, linear.bias)]
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    scale = np.where(deviation > 1e-8, deviation, np.inf)
    standard = ((features - mean) / scale).astype(np.float32)
    errors = np.zeros(len(DECAYS))
    for train, held in _inner(labels, blocks, seed):
        if len(np.unique(labels[train])) > 1:
            for i, decay in enumerate(DECAYS):
                model = _train(standard[train], labels[train], decay, seed)
                errors[i] += (model.predict(standard[held]) != labels[held]).sum()
    model = _train(standard, labels, DECAYS[int(np.argmin(errors))], seed)
    return _layers(model, mean, scale, n_classes)


def _inner(labels: Array, blocks: Array, seed: int) -> list[tuple[Array, Array]]:
    return split(labels, blocks, seed=seed, folds=3) if len(np.unique(blocks)) > 1 else []


def _train(features: Array, labels: Array, decay: float, seed: int):  # type: ignore[no-untyped-def]
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    batch = min(64, len(features))
    model = MLPClassifier(HIDDEN, alpha=decay, batch_size=batch, max_iter=60, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, labels)


def _layers(model, mean: Array, scale: Array, n_classes: int) -> list[tuple[Array, Array]]:  # type: ignore[no-untyped-def]
    weights, biases = [w.T for w in model.coefs_], list(model.intercepts_)
    weights[0] = weights[0] / scale
    biases[0] = biases[0] - weights[0] @ mean
    last, bias = weights[-1], biases[-1]
    if len(model.classes_) == 2:
        last, bias = np.vstack([-last, last]) / 2, np.hstack([-bias, bias]) / 2
    full, full_bias = np.zeros((n_classes, last.shape[1])), np.full(n_classes, bias.min() - ABSENT)
    full[model.classes_], full_bias[model.classes_] = last, bias
    weights[-1], biases[-1] = full, full_bias
    return [(w.astype(np.float32), b.astype(np.float32)) for w, b in zip(weights, biases)]
