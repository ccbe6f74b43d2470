"""The estimator keeps scikit-learn's contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from headstart import Classifier, DataError, OptionError
from pictures import textures, write_folders


@pytest.fixture
def classifier(tiny: str) -> Classifier:
    return Classifier(source=tiny)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Paths and labels of 24 pictures."""
    files = sorted(write_folders(tmp_path_factory.mktemp("pictures"), 24).rglob("*.png"))
    return [str(f) for f in files], [f.parent.name for f in files]


def test_parameters_are_stored_and_nothing_else_happens() -> None:
    made = Classifier(source="no such thing", strategy="nonsense", seed=7)
    assert made.get_params() == {
        "source": "no such thing", "strategy": "nonsense", "cut": None, "head": "linear", "budget": "5m",
        "views": None, "control": "none", "seed": 7, "allow_bad": False, "verbose": False,
    }  # fmt: skip
    assert made.set_params(seed=8).seed == 8
    assert not [name for name in vars(made) if name.endswith("_")]
    assert is_classifier(made)


def test_its_parameters_are_those_of_fit() -> None:
    import inspect

    from headstart import fit

    ours, theirs = inspect.signature(Classifier).parameters, inspect.signature(fit).parameters
    assert set(ours) - {"verbose"} <= set(theirs)


def test_clone_forgets_what_was_learnt(classifier: Classifier, task: Any) -> None:
    learnt = classifier.fit(*task)
    assert learnt is classifier
    fresh = clone(classifier)
    assert fresh.get_params() == classifier.get_params()
    with pytest.raises(NotFittedError):
        fresh.predict(task[0][:1])


def test_fit_and_predict(classifier: Classifier, task: Any) -> None:
    classifier.fit(*task)
    assert classifier.classes_.tolist() == ["across", "down"]
    p = classifier.predict_proba(task[0])
    assert p.shape == (24, 2)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert classifier.predict(task[0]).tolist() == classifier.classes_[p.argmax(1)].tolist()
    assert classifier.score(*task) > 0.9
    assert classifier.model_.evidence["score"]


@pytest.mark.parametrize("values", [[10, 9], [2.5, -1.0], [True, False], ["b", "a"]], ids=str)
def test_labels_keep_their_type_and_order(classifier: Classifier, values: list[Any]) -> None:
    pictures, names = textures(24)
    labels = np.array([values[name == "down"] for name in names])
    classifier.fit(pictures, labels)
    assert classifier.classes_.tolist() == sorted(values)
    assert classifier.classes_.dtype == labels.dtype
    assert (classifier.predict(pictures) == labels).mean() > 0.9
    p = classifier.predict_proba(pictures)
    assert (classifier.classes_[p.argmax(1)] == labels).mean() > 0.9


def test_in_a_pipeline(classifier: Classifier, task: Any) -> None:
    whole = Pipeline([("same", FunctionTransformer()), ("learn", classifier)])
    whole.set_params(learn__seed=3)
    assert whole.fit(*task).score(*task) > 0.9


def test_in_a_grid_search(classifier: Classifier, task: Any) -> None:
    search = GridSearchCV(classifier, {"cut": [1, "all"], "seed": [0]}, cv=2, error_score="raise")
    search.fit(*task)
    assert search.best_params_["cut"] in (1, "all")
    assert search.predict(task[0]).shape == (24,)


def test_cross_validation_with_groups(classifier: Classifier, task: Any) -> None:
    groups = np.arange(24) // 2
    scores = cross_val_score(classifier, *task, groups=groups, cv=GroupKFold(3), error_score="raise")
    assert scores.shape == (3,)
    assert scores.mean() > 0.7
    p = cross_val_predict(classifier, *task, cv=3, method="predict_proba")
    assert p.shape == (24, 2)


def test_groups_stay_together_inside(classifier: Classifier, task: Any) -> None:
    classifier.fit(*task, groups=[f"g{i // 4}" for i in range(24)])
    assert classifier.model_.evidence["audit"]["groups"] == 6
    assert classifier.model_.evidence["score"]["groups"] == 6


def test_arrays_as_one_block(classifier: Classifier) -> None:
    pictures, names = textures(24)
    block = np.stack(pictures)
    assert classifier.fit(block, names).score(block, names) > 0.9


def test_what_is_wrong_is_said(classifier: Classifier, task: Any) -> None:
    with pytest.raises(DataError, match="24 examples but 23 labels"):
        classifier.fit(task[0], task[1][:-1])
    with pytest.raises(OptionError, match="no strategy is called"):
        clone(classifier).set_params(strategy="magic").fit(*task)


def test_silent_by_default(classifier: Classifier, task: Any, capsys: pytest.CaptureFixture[str]) -> None:
    classifier.fit(*task).predict(task[0])
    assert capsys.readouterr() == ("", "")
    clone(classifier).set_params(verbose=True).fit(*task)
    assert "24 images of 2 classes" in capsys.readouterr().err


def test_the_same_seed_the_same_probabilities(classifier: Classifier, task: Any) -> None:
    one = clone(classifier).fit(*task).predict_proba(task[0])
    assert np.array_equal(clone(classifier).fit(*task).predict_proba(task[0]), one)


def test_pickled_and_back(classifier: Classifier, task: Any, tmp_path: Path) -> None:
    import joblib

    classifier.fit(*task)
    joblib.dump(classifier, tmp_path / "learnt")
    again = joblib.load(tmp_path / "learnt")
    np.testing.assert_allclose(again.predict_proba(task[0]), classifier.predict_proba(task[0]), atol=1e-6)
