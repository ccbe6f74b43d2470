"""The probe is scikit-learn's logistic regression on standardised features, in less time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from headstart.adapt import Head, fit_probe
from headstart.adapt._mlp import fit_mlp
from headstart.adapt._probe import PENALTIES, _Space, choose_penalty
from headstart.judge import softmax


def task(n: int, d: int, k: int, seed: int = 0) -> tuple[Any, Any]:
    """Overlapping clusters on features of very different scales, one of them constant."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % k
    centres = random.normal(0, 1, (k, d))
    x = (centres[labels] + random.normal(0, 2.5, (n, d))) * np.geomspace(1e-3, 1e3, d) + 7
    x[:, d // 2] = 3.0
    return x.astype(np.float32), labels


@pytest.mark.parametrize(("n", "d"), [(40, 200), (200, 20)], ids=["wide", "tall"])
@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_equals_scikit_learn_with_the_same_penalty(n: int, d: int, k: int, penalty: float) -> None:
    x, labels = task(n, d, k)
    ours = next(_Space.of(x).fit(labels, k, [penalty]))
    deviation = x.astype(float).std(axis=0)
    standard = (x - x.astype(float).mean(axis=0)) / np.where(deviation > 1e-8, deviation, np.inf) / np.sqrt(d)
    theirs = LogisticRegression(C=penalty, max_iter=5000, tol=1e-6).fit(standard, labels)
    fresh = task(60, d, k, seed=1)[0]
    seen = ((fresh - x.astype(float).mean(axis=0)) / np.where(deviation > 1e-8, deviation, np.inf)) / np.sqrt(d)
    found, expected = softmax(ours.logits(fresh)), theirs.predict_proba(seen)
    assert np.abs(found - expected).max() < 0.06  # ours stops earlier where the penalty is weak
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.9


def test_the_penalty_has_the_smallest_log_loss_over_the_inner_folds() -> None:
    from headstart.targets import split

    x, labels = task(80, 30, 3)
    blocks = np.arange(80)
    losses = []
    for c in PENALTIES:
        parts = []
        for train, held in split(labels, blocks, seed=0, folds=4):
            p = softmax(next(_Space.of(x[train]).fit(labels[train], 3, [c])).logits(x[held]))
            parts.append(-np.log(p[np.arange(len(held)), labels[held]]))
        losses.append(np.concatenate(parts).mean())
    chosen = choose_penalty(x, labels, blocks, seed=0)
    assert losses[PENALTIES.index(chosen)] <= min(losses) + 0.02


def test_noise_gets_a_strong_penalty_and_a_clear_task_a_weak_one() -> None:
    random = np.random.default_rng(0)
    labels, blocks = np.arange(100) % 2, np.arange(100)
    noise = choose_penalty(random.normal(size=(100, 50)), labels, blocks, seed=0)
    clear = choose_penalty(random.normal(size=(100, 50)) + 4 * labels[:, None], labels, blocks, seed=0)
    assert noise < clear


def test_the_order_of_features_and_a_rotation_do_not_matter() -> None:
    x, labels = task(50, 120, 3)
    order = np.random.default_rng(1).permutation(120)
    one = fit_probe(x, labels, 3, np.arange(50), seed=0)
    other = fit_probe(x[:, order], labels, 3, np.arange(50), seed=0)
    assert one.penalty == other.penalty
    np.testing.assert_allclose(one.logits(x), other.logits(x[:, order]), atol=0.02)


def test_the_same_twice() -> None:
    x, labels = task(60, 80, 3)
    one, two = (fit_probe(x, labels, 3, np.arange(60), seed=3) for _ in range(2))
    assert np.array_equal(one.weight, two.weight)
    assert np.array_equal(one.bias, two.bias)


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("present", [[0, 2, 3], [1, 4], [2]])
def test_absent_classes_score_low_everywhere(head: str, present: list[int]) -> None:
    x, labels = task(60, 40, len(present))
    labels = np.array(present)[labels]
    fresh = task(50, 40, len(present), seed=2)[0]
    if head == "linear":
        logits = fit_probe(x, labels, 5, np.arange(60), seed=0).logits(fresh)
    else:
        logits = Head(fit_mlp(x, labels, 5, np.arange(60), seed=0), 0, 40).logits(fresh)
    assert logits.shape == (50, 5)
    assert np.isfinite(logits).all()
    absent = [c for c in range(5) if c not in present]
    assert set(logits.argmax(axis=1)) <= set(present)
    assert softmax(logits)[:, absent].max() < 0.05


@pytest.mark.parametrize("n_blocks", [1, 2, 3])
def test_few_blocks_still_give_a_probe(n_blocks: int) -> None:
    x, labels = task(30, 10, 2)
    linear = fit_probe(x, labels, 2, np.arange(30) * n_blocks // 30, seed=0)
    assert (linear.logits(x).argmax(1) == labels).mean() > 0.6


def test_one_example_a_class() -> None:
    x, labels = task(6, 300, 6)
    linear = fit_probe(x, labels, 6, np.arange(6), seed=0)
    assert (linear.logits(x).argmax(1) == labels).all()


@pytest.mark.parametrize("k", [2, 3])
def test_several_layers_learn_what_a_line_cannot(k: int) -> None:
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (400, 2)).astype(np.float32) * [1, 1000]
    labels = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(int) + (k - 2)
    head = Head(fit_mlp(x, labels, k, np.arange(400), seed=0), 0, 2)
    assert len(head.layers) == 2
    assert (head.logits(x).argmax(1) == labels).mean() > 0.9
    assert (fit_probe(x, labels, k, np.arange(400), seed=0).logits(x).argmax(1) == labels).mean() < 0.75


def test_a_head_keeps_its_columns_and_comes_back_from_its_tensors() -> None:
    random = np.random.default_rng(0)
    layers = [(random.normal(size=(8, 5)), random.normal(size=8)), (random.normal(size=(3, 8)), random.normal(size=3))]
    head = Head([(w.astype(np.float32), b.astype(np.float32)) for w, b in layers], 2, 7)
    x = random.normal(size=(4, 9)).astype(np.float32)
    again = Head.from_tensors(head.tensors(), head.about())
    assert np.array_equal(again.logits(x), head.logits(x))
    changed = x.copy()
    changed[:, [0, 1, 7, 8]] = 99
    assert np.array_equal(head.logits(changed), head.logits(x))
    with pytest.raises(KeyError):
        Head.from_tensors({}, head.about())
