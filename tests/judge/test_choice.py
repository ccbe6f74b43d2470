"""Choosing, calibrating, and the words at the end."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from headstart.judge import (
    Comparison,
    Estimate,
    Verdict,
    choose,
    compare,
    cross_calibrated,
    cross_fitted,
    fit_temperature,
    softmax,
)


def right(n: int, share: float, seed: int = 0) -> Any:
    return (np.random.default_rng(seed).random(n) < share).astype(float)


# ---------------------------------------------------------------- choice


def test_the_cheaper_wins_a_tie() -> None:
    same = right(100, 0.8)
    assert choose([same, same, same], np.arange(100)) == 0


def test_a_gain_within_the_noise_is_a_tie() -> None:
    cheap = right(100, 0.8)
    dear = cheap.copy()
    dear[np.flatnonzero(cheap == 0)[0]] = 1  # one more right, standard error about one
    assert choose([cheap, dear], np.arange(100)) == 0


def test_a_clear_gain_is_taken_whatever_the_cost() -> None:
    assert choose([right(200, 0.6), right(200, 0.62, 1), right(200, 0.95, 2)], np.arange(200)) == 2


def test_a_worse_one_is_never_taken() -> None:
    assert choose([right(200, 0.9), right(200, 0.5, 1)], np.arange(200)) == 0


def test_one_group_is_no_evidence() -> None:
    """All that is gained lies within one patient."""
    cheap, dear = np.ones(100), np.ones(100)
    cheap[:10] = 0
    assert choose([cheap, dear], np.arange(100)) == 1
    assert choose([cheap, dear], np.arange(100) // 10) == 0


def test_each_fold_is_chosen_for_without_looking_at_it() -> None:
    n = 90
    groups, folds = np.arange(n), [np.arange(0, 30), np.arange(30, 60), np.arange(60, 90)]
    cheap, dear = np.zeros(n), np.zeros(n)
    dear[:30] = 1  # the dearer shines in the first fold alone
    assert choose([cheap, dear], groups) == 1
    picks = cross_fitted([cheap, dear], groups, folds)
    assert (picks[:30] == 0).all()
    assert (picks[30:] == 1).all()


def test_scoring_the_choice_does_not_flatter() -> None:
    """Among many candidates that only guess, the lucky one looks good; the procedure does not."""
    random = np.random.default_rng(0)
    n, folds = 100, np.array_split(np.arange(100), 5)
    lucky, honest = [], []
    for _ in range(30):
        guesses = [(random.random(n) < 0.5).astype(float) for _ in range(10)]
        lucky.append(guesses[choose(guesses, np.arange(n))].mean())
        picks = cross_fitted(guesses, np.arange(n), folds)
        honest.append(np.stack(guesses)[picks, np.arange(n)].mean())
    assert np.mean(lucky) > 0.53
    assert abs(np.mean(honest) - 0.5) < 0.025


# ---------------------------------------------------------------- temperature


def logits(n: int, k: int = 4, scale: float = 1.0, seed: int = 0) -> tuple[Any, Any]:
    """Logits that are exactly right at ``scale`` 1: labels are drawn from their softmax."""
    random = np.random.default_rng(seed)
    true = random.normal(0, 2, (n, k))
    labels = np.array([random.choice(k, p=p) for p in softmax(true)])
    return true * scale, labels


def log_loss(p: Any, labels: Any) -> float:
    return float(-np.log(p[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0])
def test_the_temperature_undoes_the_scale_and_lowers_the_log_loss(scale: float) -> None:
    scores, labels = logits(2000, scale=scale)
    found = fit_temperature(scores, labels)
    assert found == pytest.approx(scale, rel=0.15)
    fresh, truth = logits(2000, scale=scale, seed=1)
    before, after = (log_loss(softmax(fresh, t), truth) for t in (1.0, found))
    assert after <= before + 1e-3
    if scale != 1:
        assert after < before - 0.02


def test_the_temperature_changes_no_label() -> None:
    scores, _ = logits(50)
    for t in (0.05, 0.7, 20.0):
        assert (softmax(scores, t).argmax(1) == scores.argmax(1)).all()
        np.testing.assert_allclose(softmax(scores, t).sum(axis=1), 1)


def test_all_right_does_not_become_certainty() -> None:
    scores = np.tile([3.0, 0.0], (20, 1))
    p = softmax(scores, fit_temperature(scores, np.zeros(20, int)))
    assert 0.9 < p[0, 0] < 0.999


@pytest.mark.parametrize("n", [0, 1, 2])
def test_hardly_any_example(n: int) -> None:
    scores, labels = logits(n) if n else (np.zeros((0, 3)), np.zeros(0, int))
    assert 0.05 <= fit_temperature(scores, labels) <= 20


def test_huge_and_equal_logits_are_finite() -> None:
    assert np.isfinite(softmax(np.array([[1e30, -1e30], [0, 0]]))).all()
    assert np.isfinite(fit_temperature(np.zeros((5, 3)), np.zeros(5, int)))


def test_a_fold_does_not_calibrate_itself() -> None:
    scores, labels = logits(90)
    folds = np.array_split(np.arange(90), 3)
    p = cross_calibrated(scores, labels, folds)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    other = labels.copy()
    other[folds[0]] = (other[folds[0]] + 1) % 4
    assert np.array_equal(cross_calibrated(scores, other, folds)[folds[0]], p[folds[0]])
    assert not np.array_equal(cross_calibrated(scores, other, folds)[folds[1]], p[folds[1]])


# ---------------------------------------------------------------- verdict


def verdict(*pairs: tuple[Any, Any], missing: dict[str, str] | None = None) -> Verdict:
    comparisons = [
        compare(f"control {i}", ours, theirs, np.arange(len(ours))) for i, (ours, theirs) in enumerate(pairs)
    ]
    return Verdict(tuple(comparisons), missing or {})


GOOD, BAD = right(200, 0.95), right(200, 0.6, 1)


def test_yes_when_better_than_every_control() -> None:
    found = verdict((GOOD, BAD))
    assert found.worth_it is True
    assert found.headline() == "Yes, the head start was worth it."
    assert found.lines()[1].startswith("better than control 0: ")


def test_yes_with_a_reservation_when_a_control_is_missing() -> None:
    found = verdict((GOOD, BAD), missing={"scratch": "no time was left"})
    assert found.headline() == "Yes, the head start was worth it as far as was compared."
    assert found.lines()[-1] == "not compared with scratch: no time was left"


def test_no_when_a_control_is_better() -> None:
    found = verdict((GOOD, BAD), (BAD, GOOD))
    assert found.worth_it is False
    assert found.headline() == "No: control 1 did better on this data; use that instead."
    assert "WORSE than control 1" in found.lines()[2]


def test_not_shown_when_it_may_be_chance() -> None:
    found = verdict((GOOD, BAD), (GOOD, GOOD))
    assert found.worth_it is None
    assert found.headline().startswith("Not shown: ")
    assert "control 1" in found.headline()
    assert "control 0" not in found.headline()


def test_no_control_at_all_shows_nothing() -> None:
    found = verdict(missing={"scratch": "switched off"})
    assert found.worth_it is None
    assert found.headline().startswith("Not shown")


def test_few_examples_decide_nothing() -> None:
    assert verdict((np.array([1.0, 1, 1]), np.array([1.0, 0, 1]))).worth_it is None


def test_one_lucky_group_decides_nothing() -> None:
    ours, theirs = np.ones(40), np.repeat([0.0, 1.0], [10, 30])
    assert compare("c", ours, theirs, np.arange(40)).outcome == "better"
    assert compare("c", ours, theirs, np.arange(40) // 10).outcome == "undecided"


def test_the_sentence_has_the_numbers() -> None:
    found = Comparison("scratch", 0.941, 0.803, Estimate(0.138, 0.06, 0.21), 100)
    assert found.sentence() == (
        "better than scratch: 94.1 against 80.3 %, difference +13.8 points (95 % interval +6.0 to +21.0, 100 examples)"
    )


def test_a_verdict_is_json() -> None:
    data = json.loads(json.dumps(verdict((GOOD, BAD), (BAD, GOOD), missing={"x": "y"}).to_dict()))
    assert data["worth_it"] is False
    assert [c["outcome"] for c in data["comparisons"]] == ["better", "worse"]
    assert data["missing"] == {"x": "y"}
