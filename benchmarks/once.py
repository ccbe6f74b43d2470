"""One training of one strategy, without the folds around it: what a strategy reaches, in a sixth of the time."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from kit import Draw

from headstart import adapt
from headstart.deliver import Model
from headstart.features import extract
from headstart.sources import open_source
from headstart.targets import audit, read


def once(photos: Draw, strategy: str, source: str, seed: int) -> dict[str, float]:
    """Accuracy on the test part, and seconds of training with early stopping on a fifth held out inside."""
    target, opened = read(photos.train), open_source(source)
    pooled = extract(opened, target.modality, target.examples)
    target, found = audit(target, pooled.digests, pooled.problems, pooled.all_raw(), allow_bad=True)
    with tempfile.TemporaryDirectory() as place:
        job = adapt.Job(
            opened, target.modality, target.examples, target.labels, len(target.classes), found.blocks,
            pooled.subset(found.rows), seed, adapt.Journal(Path(place)), views=4,
        )  # fmt: skip
        candidate = adapt.strategies_for(strategy)[0].candidates(job)[0]
        start = time.monotonic()
        fitted: Any = candidate.fit(job, np.arange(len(target)), "once")
        seconds = time.monotonic() - start
    config = {
        "classes": list(target.classes), "temperature": 1.0, "modality": target.modality.name, "source": source,
        "strategy": strategy, "preprocessing": dict(opened.preprocessing), "architecture": opened.architecture,
        "model_args": dict(opened.model_args), "library": opened.library,
    }  # fmt: skip
    test = read(photos.test)
    model = Model(config, fitted.head, fitted.network, {}, files=opened.build_files)
    logits, problems = model.logits(test.examples)
    rows = np.setdiff1d(np.arange(len(test)), list(problems))
    right = logits[rows].argmax(axis=1) == test.labels[rows]
    return {"accuracy": float(right.mean()), "seconds": seconds}
