"""headstart as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from headstart._errors import DataError
from headstart._fit import fit
from headstart._runtime import quiet
from headstart.deliver import Model
from headstart.modalities import Array


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn classifier over paths, encoded bytes or image arrays.

    The parameters are those of ``headstart.fit``. Learnt: ``model_`` (a ``headstart.Model``), ``classes_`` (of the
    labels' own type). Works with ``clone``, ``Pipeline``, ``GridSearchCV`` and ``cross_val_score``; pass ``groups`` to
    ``fit`` to keep groups together inside.
    """

    def __init__(
        self,
        source: str | None = None,
        strategy: str = "extract",
        cut: int | str | None = None,
        head: str = "linear",
        budget: str | float = "5m",
        views: int | None = None,
        control: str = "none",
        seed: int = 0,
        allow_bad: bool = False,
        verbose: bool = False,
    ) -> None:
        self.source = source
        self.strategy = strategy
        self.cut = cut
        self.head = head
        self.budget = budget
        self.views = views
        self.control = control
        self.seed = seed
        self.allow_bad = allow_bad
        self.verbose = verbose

    def fit(self, X: Any, y: Any, groups: Sequence[Any] | None = None) -> Classifier:
        """Learn from examples ``X`` (paths, bytes or arrays, [n]) and labels ``y`` [n]. Raises as ``headstart.fit``."""
        labels = np.asarray(y)
        if len(labels) != len(X):
            raise DataError(f"{len(X)} examples but {len(labels)} labels; give one label for each")
        options = {name: value for name, value in self.get_params(deep=False).items() if name != "verbose"}
        with quiet(not self.verbose):
            self.model_: Model = fit(list(X), [str(v) for v in labels], groups=groups, **options)
        values = {str(v): v for v in np.unique(labels)}
        self.classes_ = np.array([values[name] for name in self.model_.classes_])
        order = np.argsort(self.classes_)
        self.classes_, self._columns = self.classes_[order], order
        return self

    def predict_proba(self, X: Any) -> Array:
        """Calibrated probabilities [n, k], columns in the order of ``classes_``."""
        check_is_fitted(self, "model_")
        with quiet(not self.verbose):
            found: Array = self.model_.predict_proba(list(X))[:, self._columns]
        return found

    def predict(self, X: Any) -> Array:
        """Labels [n], of the type that ``fit`` was given."""
        columns = self.predict_proba(X).argmax(axis=1)
        found: Array = self.classes_[columns]
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags
