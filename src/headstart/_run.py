"""A fit in progress: candidates tried inside the folds, the choice, the controls, the verdict, the model."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headstart import adapt, judge
from headstart._budget import Budget
from headstart._errors import OptionError
from headstart._rank import Ranking
from headstart._runtime import cache_dir, compute_dtype_name, cores, say, side_by_side
from headstart.deliver import SEEN, Model, describe
from headstart.features import DEPTHS, PLAIN, Features, extract
from headstart.modalities import Array
from headstart.sources import DEFAULT_LIBRARY, Source
from headstart.targets import Audit, Overlap, Target, overlap, split

SCRATCH_CONTROL = "scratch"


@dataclass(slots=True)
class Tried:
    """One candidate's held-out predictions."""

    candidate: adapt.Candidate
    logits: Array
    """[n, k]; NaN for folds not run."""
    facts: list[dict[str, Any]]
    seconds: float
    note: str = ""

    def right(self, labels: Array) -> Array:
        """1 where the held-out prediction is right [n]."""
        right: Array = (self.logits.argmax(axis=1) == labels).astype(float)
        return right


@dataclass(slots=True)
class Run:
    """A fit in progress: the data, what was tried, what came out."""

    target: Target
    found: Audit
    source: Source
    pooled: Features
    options: dict[str, Any]
    seed: int
    clock: Budget
    tried: list[Tried] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    controls: list[judge.Comparison] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    folds: Any = None
    job: adapt.Job = field(init=False)
    chosen: int = 0
    ranking: Ranking | None = None
    """How the source was chosen, where it was."""
    shared: Overlap | None = None
    """What the test part shares with the training part, once ``check_test`` has looked."""

    def __post_init__(self) -> None:
        labels, n = self.target.labels, len(self.target)
        self.folds = split(labels, self.found.blocks, seed=self.seed)
        views = self.options["views"] or (4 if n <= 400 else 1)
        journal = adapt.Journal(cache_dir() / "runs" / self._key())
        if journal.begun:
            say("continuing an interrupted run of the same call")
        self.job = adapt.Job(
            self.source,
            self.target.modality,
            self.target.examples,
            labels,
            len(self.target.classes),
            self.found.blocks,
            self.pooled,
            self.seed,
            journal,
            self.options["head"],
            self.options["cut"],
            views,
        )

    def _key(self) -> str:
        digests = b"".join(d for d in self.pooled.digests if d)
        about = [
            _versions(),
            self.source.digest,
            dict(self.source.preprocessing),
            self.options,
            self.seed,
            compute_dtype_name(),
            list(self.target.classes),
            self.target.labels.tolist(),
            self.found.blocks.tolist(),
        ]
        return hashlib.sha256(digests + json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]

    # ------------------------------------------------------------ trying

    def try_strategies(self) -> None:
        """Held-out predictions of each candidate, the cheapest first, as the budget allows; then the choice."""
        strategies = adapt.strategies_for(self.options["strategy"])
        if self.source.frozen_because:
            for strategy in [s for s in strategies if s.trains]:
                self.skipped[strategy.name] = f"the network stays frozen: {self.source.frozen_because}"
            strategies = tuple(s for s in strategies if not s.trains)
            if self.skipped:
                say(f"{', '.join(self.skipped)}: not tried, {next(iter(self.skipped.values()))}")
        candidates = [c for s in strategies for c in s.candidates(self.job)]
        if not candidates:
            raise OptionError(f"{self.source.name} has no stages to cut between; use --strategy extract, light or full")
        for candidate in candidates:
            estimate = candidate.seconds(self.job, len(self.folds) + 1)
            if self.tried and estimate > self.clock.left():
                self.skipped[candidate.name] = f"would take about {_span(estimate)}, {_span(self.clock.left())} is left"
                say(f"{candidate.name}: not tried, {self.skipped[candidate.name]}")
                continue
            if estimate > 5:
                say(f"{candidate.name}: about {_span(estimate)}")
            tried = self._cross_validate(candidate, self._best_right())
            self.tried.append(tried)
            self._tell(tried)
        complete = [t for t in self.tried if not t.note]
        rights = [t.right(self.target.labels) for t in complete]
        self.chosen = self.tried.index(complete[judge.choose(rights, self.found.blocks)])

    def _best_right(self) -> Array | None:
        complete = [t.right(self.target.labels) for t in self.tried if not t.note]
        return complete[judge.choose(complete, self.found.blocks)] if complete else None

    def _cross_validate(self, candidate: adapt.Candidate, rival: Array | None) -> Tried:
        start, facts = time.monotonic(), []
        logits = np.full((len(self.target), self.job.n_classes), np.nan, np.float32)
        seen = np.empty(0, np.int64)
        note = ""
        wave = self._wave(candidate)
        for first in range(0, len(self.folds), wave):
            held_out = self._held_out(candidate, range(first, min(first + wave, len(self.folds))))
            for held, part, fact in held_out:
                logits[held] = part
                facts.append(fact)
                seen = np.concatenate([seen, held])
            done = first + len(held_out)
            if rival is not None and 2 <= done < len(self.folds) and self._hopeless(logits, rival, seen):
                note = f"given up after {done} of {len(self.folds)} folds: clearly behind"
                break
        return Tried(candidate, logits, facts, time.monotonic() - start, note)

    def _wave(self, candidate: adapt.Candidate) -> int:
        """How many folds run side by side; the cheap ones need no threads of their own."""
        return max(2, min(cores(), len(self.folds))) if candidate.parallel else len(self.folds)

    def _held_out(
        self, candidate: adapt.Candidate, numbers: Iterable[int]
    ) -> list[tuple[Array, Array, dict[str, Any]]]:
        """(held rows, their logits, facts) of some folds."""

        def task(number: int) -> Callable[[], tuple[Array, Array, dict[str, Any]]]:
            train, held = self.folds[number]
            return lambda: (held, *adapt.out_of_fold(candidate, self.job, number, train, held))

        tasks = [task(number) for number in numbers]
        return side_by_side(tasks) if candidate.parallel else [run() for run in tasks]

    def _hopeless(self, logits: Array, rival: Array, seen: Array) -> bool:
        ours = (logits[seen].argmax(axis=1) == self.target.labels[seen]).astype(float)
        gap = float(rival[seen].mean() - ours.mean())
        return gap > 2 * judge.standard_error(ours, rival[seen], self.found.blocks[seen])

    def _tell(self, tried: Tried) -> None:
        seen = ~np.isnan(tried.logits[:, 0])
        accuracy = 100 * tried.right(self.target.labels)[seen].mean()
        say(
            f"{tried.candidate.name}: {accuracy:.1f} % right on held-out examples, {_span(tried.seconds)}"
            + (f" ({tried.note})" if tried.note else "")
        )

    # ------------------------------------------------------------ judging

    def compare_with_controls(self) -> None:
        """The plain baseline always; from scratch when the budget allows or it was asked for."""
        self._plain_baseline()
        if self.options["strategy"] == SCRATCH_CONTROL:
            self.missing[SCRATCH_CONTROL] = "the model itself starts from scratch"
        elif self.options["control"] == "none":
            self.missing[SCRATCH_CONTROL] = "switched off"
        elif self.source.frozen_because:
            self.missing[SCRATCH_CONTROL] = f"the network stays frozen: {self.source.frozen_because}"
        else:
            self._scratch()

    def _plain_baseline(self) -> None:
        raw = self.pooled.raw(np.arange(len(self.target)))
        logits = adapt.held_out_logits(
            raw, self.target.labels, self.job.n_classes, self.found.blocks, self.folds, seed=self.seed
        )
        self._compare(f"logistic regression on {self.target.modality.plain_name}", logits)

    def _scratch(self) -> None:
        """The same architecture and procedure from random weights, on as many folds as there is time for.

        When it was asked for, it runs even without time left: two folds and a short schedule at the least.
        """
        (candidate,) = adapt.strategies_for(SCRATCH_CONTROL)[0].candidates(self.job)
        one, left, asked = candidate.seconds(self.job, 1), self.clock.left(), self.options["control"] == "scratch"
        count = min(int(left / max(one, 1e-9)), len(self.folds))
        if count < 2 and not asked:
            self.missing[SCRATCH_CONTROL] = (
                f"a fair run takes about {_span(2 * one)}, {_span(left)} was left of the budget "
                "(--control scratch runs it all the same, a larger --budget runs it in full)"
            )
            return
        name = "the same network from scratch"
        if count < 2:
            count, full = 2, candidate
            candidate = full.within(self.job, left, count)
            self.missing["a full run from scratch"] = (
                f"it takes about {_span(full.seconds(self.job, count))}; a larger --budget runs it"
            )
            name += f" ({candidate.epochs} epochs instead of {full.epochs}, as the budget allows)"
        say(f"from scratch, the control: about {_span(candidate.seconds(self.job, count))}")
        logits = np.full((len(self.target), self.job.n_classes), np.nan, np.float32)
        for held, part, _ in self._held_out(candidate, range(count)):
            logits[held] = part
        self._compare(name, logits)

    def _compare(self, name: str, logits: Array) -> None:
        seen, labels = ~np.isnan(logits[:, 0]), self.target.labels
        ours = (self.honest().argmax(axis=1) == labels)[seen]
        theirs = (logits.argmax(axis=1) == labels)[seen]
        comparison = judge.compare(name, ours, theirs, self.found.blocks[seen], seed=self.seed)
        self.controls.append(comparison)
        say(comparison.sentence())

    def honest(self) -> Array:
        """Held-out logits [n, k] of the procedure: in every fold those of the candidate that the others chose."""
        complete = [t for t in self.tried if not t.note]
        rights = [t.right(self.target.labels) for t in complete]
        pick = judge.cross_fitted(rights, self.found.blocks, [held for _, held in self.folds])
        stacked = np.stack([t.logits for t in complete])
        found: Array = stacked[pick, np.arange(len(self.target))]
        rivals = self.ranking.rivals() if self.ranking else None
        if rivals is None:
            return found
        return rivals.honest(found, self.target.labels, self.found.blocks, [held for _, held in self.folds])

    # ------------------------------------------------------------ finishing

    def finish(self) -> Model:
        """Refit the choice on everything, calibrate, score, score the test part once, describe."""
        labels, tried = self.target.labels, self.tried[self.chosen]
        everything = np.arange(len(self.target))
        fitted = tried.candidate.fit(self.job, everything, f"{tried.candidate.name}-final", tried.facts)
        logits = self.honest()
        probabilities = judge.cross_calibrated(logits, labels, [held for _, held in self.folds])
        score = judge.score(probabilities, labels, self.found.blocks, seed=self.seed)
        verdict = judge.Verdict(tuple(self.controls), self.missing)
        config = self._config(fitted, judge.fit_temperature(tried.logits, labels))
        evidence = {
            "score": score.to_dict(),
            "calibration_error": judge.calibration_error(probabilities, labels),
            "verdict": verdict.to_dict(),
            "chosen": tried.candidate.name,
            "candidates": [self._row(t) for t in self.tried],
            "not_tried": self.skipped,
            "ranking": self.ranking.to_dict() if self.ranking else None,
            "folds": {"count": len(self.folds), "notes": list(self.folds.notes)},
            "confusion": _confusion(logits.argmax(axis=1), labels, self.job.n_classes),
            "audit": self.found.to_dict(),
            "trained_on": "".join(d[:SEEN].hex() for d in self.pooled.digests if d),
        }
        weights = fitted.network if fitted.network is not None else self.source.backbone_file
        model = Model(config, fitted.head, weights, evidence, files=self.source.build_files)
        if self.target.test is not None and self.shared is not None:
            model.evidence["test"] = self._test(model, self.target.test, self.shared)
        model.evidence["seconds"] = round(self.clock.spent(), 1)
        describe(model, verdict.lines())
        for line in model.summary():
            say(line)
        return model

    def _row(self, tried: Tried) -> dict[str, Any]:
        right = tried.right(self.target.labels)[~np.isnan(tried.logits[:, 0])]
        return {
            "name": tried.candidate.name,
            "accuracy": float(right.mean()),
            "examples": len(right),
            "seconds": round(tried.seconds, 2),
            "note": tried.note,
            "folds": tried.facts,
        }

    def _config(self, fitted: adapt.Fitted, temperature: float) -> dict[str, Any]:
        elsewhere = {"library": self.source.library} if self.source.library != DEFAULT_LIBRARY else {}
        return {
            "format": 1,
            **elsewhere,
            "modality": self.target.modality.name,
            "source": self.source.name,
            "source_card": dict(self.source.card),
            "architecture": self.source.architecture,
            "model_args": dict(self.source.model_args),
            "preprocessing": dict(self.source.preprocessing),
            "strategy": self.tried[self.chosen].candidate.strategy,
            "candidate": self.tried[self.chosen].candidate.name,
            "head": fitted.head.about(),
            "classes": list(self.target.classes),
            "temperature": temperature,
            "seed": self.seed,
            "precision": compute_dtype_name(),
            "options": self.options,
            "versions": _versions(),
        }

    def check_test(self) -> None:
        """Read the test part and set aside what repeats a training example, before any time is spent on training.

        Raises DataError if nothing of it can be scored. No model looks at it yet.
        """
        test = self.target.test
        if test is None:
            return
        seen = extract(self.source, test.modality, test.examples, kind=PLAIN, what="reading the test part")
        known = self.pooled.raw(np.arange(len(self.target)))
        self.shared = overlap(
            self.target, self.pooled.digests, known, seen.digests, seen.all_raw(), seen.problems
        )  # fmt: skip
        for line in self.shared.lines():
            say(line)

    def _test(self, model: Model, test: Target, shared: Overlap) -> dict[str, Any]:
        """Score the part kept aside, once; its copies of training examples are left out."""
        rows = shared.rows
        part = test.take(rows)
        if model.keeps_source_network:  # then its features are worth keeping
            features = extract(self.source, part.modality, part.examples, kind=DEPTHS, what="predicting the test part")
            logits = model.head.logits(features.take(np.arange(len(part))))
        else:
            logits, _ = model.logits(part.examples)
        probabilities = judge.softmax(logits, float(model.config["temperature"]))
        found = judge.score(probabilities, part.labels, part.group_codes(), seed=self.seed)
        return {"score": found.to_dict(), "overlap": shared.to_dict()}


def _confusion(predicted: Array, labels: Array, k: int) -> list[list[int]]:
    return np.bincount(labels * k + predicted, minlength=k * k).reshape(k, k).tolist()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("headstart", "torch", "timm", "scikit-learn", "numpy")}


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
