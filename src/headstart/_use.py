"""Using a model: predictions as rows, and its score on labelled data."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headstart._errors import DataError
from headstart._runtime import say
from headstart.deliver import Model, load
from headstart.judge import Estimate, calibration_error, score
from headstart.modalities import Array, Example
from headstart.targets import PASSED_OVER, read, stop_if_too_many

BATCH = 256  # examples whose predictions are held at a time


def evaluate(
    model: Model | str | Path,
    data: Any,
    labels: Sequence[Any] | None = None,
    *,
    label: str | None = None,
    group: str | None = None,
    allow_bad: bool = False,
) -> dict[str, Any]:
    """Score a model on labelled ``data`` (whatever ``fit`` reads; of a folder with a test part, that part): accuracy,
    balanced accuracy, AUROC and log-loss with 95 % intervals over groups, calibration error, and what could not be
    read. Classes are matched by name. Examples that the model was trained on are left out and counted in
    ``trained_on``; if there are no others they are scored all the same, and ``warning`` says what that is worth.

    Raises DataError for classes that the model does not know and where more than a tenth cannot be read (unless
    ``allow_bad``), ModelError for a damaged model.
    """
    model = model if isinstance(model, Model) else load(model)
    target = read(data, labels, label=label, group=group, fewest=1)
    if target.test is not None:
        say(f"{target.name} has a test part: that is scored, its training part is not looked at")
        target = target.test
    known = {name: i for i, name in enumerate(model.classes_)}
    unknown = [c for c in target.classes if c not in known]
    if unknown:
        raise DataError(
            f"the model knows no class {unknown[0]!r} (it knows {', '.join(known)}); rename or leave it out"
        )
    truth = np.array([known[target.classes[i]] for i in target.labels])
    probabilities, problems = model.probabilities(target.examples)
    stop_if_too_many(target, problems, allow_bad=allow_bad)
    readable = np.array([i for i in range(len(target)) if i not in problems], np.int64)
    if not len(readable):
        raise DataError(f"nothing in {target.name} can be read")
    old = np.array([model.was_trained_on(target.examples[i]) for i in readable])
    rows = readable if old.all() else readable[~old]
    warning = _warning(model, int(old.sum()), len(readable))
    if warning:
        say(warning)
    claimed = {name: reason for name, reason in target.skipped.items() if not reason.startswith(PASSED_OVER)}
    found = score(probabilities[rows], truth[rows], target.group_codes()[rows])
    return {
        **({"warning": warning} if warning else {}),
        **found.to_dict(),
        "trained_on": int(old.sum()),
        "calibration_error": calibration_error(probabilities[rows], truth[rows]),
        "unreadable": {target.examples[i].name: reason for i, reason in problems.items()} | claimed,
    }


def _warning(model: Model, old: int, n: int) -> str:
    """What to say of examples that the model was trained on."""
    if old < n:
        return f"{old} of {n} examples were trained on and are left out of the score" if old else ""
    honest = Estimate(**model.evidence["score"]["accuracy"])
    return (
        f"the model was trained on all of these {n} examples: this shows what it remembers, not what it can do; its "
        f"honest score is {honest.percent()}"
    )


def predictions(model: Model, examples: Iterable[Example]) -> Iterator[tuple[str, Array | None, str]]:
    """(name, probabilities [k] or None, reason) of each example in order, a batch at a time."""
    batch: list[Example] = []
    for example in examples:
        batch.append(example)
        if len(batch) == BATCH:
            yield from _predicted(model, batch)
            batch = []
    if batch:
        yield from _predicted(model, batch)


def _predicted(model: Model, batch: list[Example]) -> Iterator[tuple[str, Array | None, str]]:
    probabilities, problems = model.probabilities(batch)
    for i, example in enumerate(batch):
        yield example.name, None if i in problems else probabilities[i], problems.get(i, "")


def as_csv(classes: Sequence[str], rows: Iterable[tuple[str, Array | None, str]]) -> Iterator[str]:
    """CSV lines: file, label, one column of probability per class, error."""
    yield _csv_line(["file", "label", *classes, "error"])
    for name, probabilities, reason in rows:
        if probabilities is None:
            yield _csv_line([name, "", *[""] * len(classes), reason])
        else:
            label = classes[int(probabilities.argmax())]
            yield _csv_line([name, label, *(f"{p:.6f}" for p in probabilities), ""])


def as_json_lines(classes: Sequence[str], rows: Iterable[tuple[str, Array | None, str]]) -> Iterator[str]:
    """One JSON object a line: file, label, probabilities by class, or error."""
    for name, probabilities, reason in rows:
        if probabilities is None:
            yield json.dumps({"file": name, "error": reason}, ensure_ascii=False)
        else:
            named = {c: round(float(p), 6) for c, p in zip(classes, probabilities)}
            label = classes[int(probabilities.argmax())]
            yield json.dumps({"file": name, "label": label, "probabilities": named}, ensure_ascii=False)


def _csv_line(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()
