"""Figures agree with scikit-learn; intervals are honest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, roc_auc_score

from headstart.judge import calibration_error, paired_difference, score, softmax, standard_error


def task(n: int = 90, k: int = 3, sure: float = 1.5, seed: int = 0) -> tuple[Any, Any]:
    """Probabilities [n, k] that are right more often than not, unbalanced labels [n]."""
    random = np.random.default_rng(seed)
    labels = np.minimum(random.geometric(0.5, n) - 1, k - 1)
    labels[:k] = np.arange(k)
    return softmax(random.normal(size=(n, k)) + sure * np.eye(k)[labels]), labels


@pytest.mark.parametrize("k", [2, 3, 7])
def test_agrees_with_scikit_learn(k: int) -> None:
    p, labels = task(k=k)
    found = score(p, labels, np.arange(len(labels)))
    assert found.accuracy.value == pytest.approx(accuracy_score(labels, p.argmax(1)))
    assert found.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(labels, p.argmax(1)))
    assert found.log_loss.value == pytest.approx(log_loss(labels, p, labels=np.arange(k)))
    expected = roc_auc_score(labels, p[:, 1]) if k == 2 else roc_auc_score(labels, p, multi_class="ovr")
    assert found.auroc is not None
    assert found.auroc.value == pytest.approx(expected)
    assert (found.examples, found.groups) == (90, 90)


def test_auroc_with_ties_and_absent_classes() -> None:
    p, labels = task(k=4)
    p = p.round(1) + 1e-9
    p /= p.sum(axis=1, keepdims=True)
    keep = labels != 2
    found = score(p[keep], labels[keep], np.arange(keep.sum())).auroc
    expected = np.mean([roc_auc_score(labels[keep] == c, p[keep, c]) for c in (0, 1, 3)])
    assert found is not None
    assert found.value == pytest.approx(expected)


def test_one_class_has_no_auroc() -> None:
    p, _ = task(20)
    found = score(p, np.zeros(20, int), np.arange(20))
    assert found.auroc is None
    assert found.to_dict()["auroc"] is None


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(2, 5), st.integers(1, 40), st.floats(-2, 6), st.integers(0, 99))
def test_intervals_hold_their_value(n: int, k: int, n_groups: int, sure: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, k, n)
    p = softmax(random.normal(size=(n, k)) + sure * np.eye(k)[labels])
    found = score(p, labels, random.integers(0, n_groups, n), draws=60)
    for estimate in (found.accuracy, found.balanced_accuracy, found.log_loss):
        assert np.isfinite([estimate.value, estimate.low, estimate.high]).all()
    assert 0 <= found.accuracy.low <= found.accuracy.value <= found.accuracy.high <= 1
    assert 0 <= found.balanced_accuracy.low <= found.balanced_accuracy.high <= 1


@pytest.mark.parametrize(("n", "low"), [(5, 0.57), (20, 0.84), (100, 0.963)])
def test_all_right_is_not_certainty(n: int, low: float) -> None:
    """Wilson's interval for n of n."""
    p = np.tile([0.9, 0.1], (n, 1))
    found = score(p, np.zeros(n, int), np.arange(n)).accuracy
    assert found.value == 1
    assert found.low == pytest.approx(low, abs=0.01)
    assert found.high == 1
    none = score(p, np.ones(n, int), np.arange(n)).accuracy
    assert none.low == 0
    assert none.high == pytest.approx(1 - low, abs=0.01)


def test_the_interval_is_wilsons_for_independent_examples() -> None:
    n, right = 200, 150
    labels = (np.arange(n) >= right).astype(int)
    found = score(np.tile([0.8, 0.2], (n, 1)), labels, np.arange(n)).accuracy
    assert (found.low, found.high) == pytest.approx((0.686, 0.805), abs=0.012)


def test_correlated_groups_widen_the_interval() -> None:
    random = np.random.default_rng(0)
    right = np.repeat(random.random(20) < 0.7, 10)  # twenty patients, all or nothing
    labels = np.zeros(200, int)
    p = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
    alone = score(p, labels, np.arange(200)).accuracy
    grouped = score(p, labels, np.arange(200) // 10).accuracy
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)
    assert standard_error(right, ~right, np.arange(200) // 10) > 2 * standard_error(right, ~right, np.arange(200))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        right = random.random(60) < 0.8
        p = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
        found = score(p, np.zeros(60, int), np.arange(60), draws=100).accuracy
        covered += found.low <= 0.8 <= found.high
    assert 0.90 <= covered / 200 <= 0.99


def test_the_names_and_order_of_groups_do_not_matter() -> None:
    p, labels = task()
    groups = np.arange(90) // 3
    one = score(p, labels, groups).accuracy
    assert score(p, labels, np.array([f"patient {g:02}" for g in groups])).accuracy == one


def test_the_same_seed_the_same_numbers() -> None:
    p, labels = task()
    assert score(p, labels, np.arange(90), seed=3) == score(p, labels, np.arange(90), seed=3)


def test_a_wrong_answer_given_for_certain_has_a_finite_loss() -> None:
    p = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert np.isfinite(score(p, np.array([1, 1]), np.arange(2)).log_loss.value)


def test_figures_as_text() -> None:
    p, labels = task()
    found = score(p, labels, np.arange(90))
    assert f"{100 * found.accuracy.value:.1f} %" in found.accuracy.percent()
    assert found.log_loss.plain().startswith(f"{found.log_loss.value:.3f} (")


# ---------------------------------------------------------------- differences


def test_a_paired_difference_is_the_mean_with_a_bootstrap_interval() -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.random(300) < 0.9, random.random(300) < 0.7
    found = paired_difference(ours, theirs, np.arange(300))
    difference = ours.astype(float) - theirs
    assert found.value == pytest.approx(difference.mean())
    half = 1.96 * difference.std() / np.sqrt(300)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.015)
    assert standard_error(ours, theirs, np.arange(300)) == pytest.approx(difference.std() / np.sqrt(300), rel=0.02)


def test_two_that_always_agree_are_not_known_to_be_equal() -> None:
    same = np.ones(50)
    found = paired_difference(same, same, np.arange(50))
    assert found.value == 0
    assert found.low == pytest.approx(-0.074)
    assert found.high == pytest.approx(0.074)


def test_pairing_makes_the_interval_narrow() -> None:
    random = np.random.default_rng(0)
    ours = random.random(400) < 0.7
    theirs = ours.copy()
    theirs[np.flatnonzero(ours)[:20]] = False
    found = paired_difference(ours, theirs, np.arange(400))
    assert found.high - found.low < 0.06
    assert found.low > 0


# ---------------------------------------------------------------- calibration error


def test_calibration_error() -> None:
    random = np.random.default_rng(0)
    sure = random.uniform(0.5, 1, 20_000)
    right = random.random(20_000) < sure
    p = np.column_stack([sure, 1 - sure])
    assert calibration_error(p, (~right).astype(int)) < 0.02
    boasting = np.tile([0.99, 0.01], (1000, 1))
    assert calibration_error(boasting, (np.arange(1000) % 2)) == pytest.approx(0.49)
    assert calibration_error(p[:1], np.array([0])) == pytest.approx(1 - sure[0])


def test_an_interval_holds_its_estimate() -> None:
    """Many classes of one or two examples: a resample sees fewer classes, which moves the balanced accuracy."""
    random = np.random.default_rng(0)
    labels = np.arange(60) % 43
    probabilities = random.dirichlet(np.ones(43), 60)
    found = score(probabilities, labels, np.arange(60))
    for estimate in (found.accuracy, found.balanced_accuracy, found.log_loss):
        assert estimate.low <= estimate.value <= estimate.high
