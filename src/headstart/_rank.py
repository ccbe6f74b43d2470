"""Which source? A shortlist by transferability of frozen features, then probes inside the folds; never a guess."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from headstart import adapt, judge
from headstart._budget import Budget, parse_budget
from headstart._errors import SourceError
from headstart._runtime import check_seed, compute_dtype, cores, device, half_the_cores, say
from headstart.features import PLAIN, Features, check_modality, extract
from headstart.modalities import Array
from headstart.sources import Source, list_sources, open_source
from headstart.targets import Folds, Target, audit, draw, read, split

SAMPLE = 400  # examples that the shortlist is made from
MOST = 4000  # examples that the probes learn from
SHORTLIST = 3
DEPTHS_SHOWN = 6
FEW_SOURCE_EXAMPLES = 10  # times the target's: below it the source may know no more than the target


@dataclass(slots=True)
class Ranked:
    """What was measured of one source. ``accuracy`` is out of fold and honest about the choice of depth."""

    name: str
    parameters: float
    examples: int | None
    log_me: float
    milliseconds: float
    """One core's time for one prediction."""
    seconds: float
    """Wall time of features and probes in this call; little when the features were cached."""
    accuracy: judge.Estimate | None = None
    at: str = ""
    """Where the features come from: "output" or "all depths"."""
    profile: Mapping[str, float] = field(default_factory=dict)
    """Held-out accuracy of a probe at several depths."""
    logits: Array | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return {k: v for k, v in asdict(self).items() if k != "logits"}


@dataclass(frozen=True, slots=True)
class Ranking:
    """Sources in the order of what they gave; those beyond the shortlist follow by their evidence."""

    rows: list[Ranked]
    best: Ranked
    skipped: Mapping[str, str]
    notes: Sequence[str]
    examples: int
    seconds: float
    target: str
    plain_name: str
    plain: judge.Estimate
    """What logistic regression on the raw input reaches: the least that a source must beat."""
    whole: bool
    """Whether the probes saw every example, so that their held-out predictions serve a fit as well."""

    def lines(self) -> list[str]:
        """The table and what there is to say, one line each."""
        width = max(len(r.name) for r in self.rows)
        found = [f"{'source':{width}}  held out, 95 % interval   features from  time here  ms per prediction  evidence"]
        for r in self.rows:
            accuracy = r.accuracy.percent() if r.accuracy else "not in the shortlist"
            found.append(
                f"{r.name:{width}}  {accuracy:24}  {r.at:13}  {r.seconds:7.1f} s  {r.milliseconds:17.1f}"
                + f"  {r.log_me:8.3f}"
                + ("  <- chosen" if r is self.best else "")
            )
        found.append(self.plain_line())
        found += [f"{name}: not tried, {why}" for name, why in self.skipped.items()]
        return [*found, *self.notes]

    def plain_line(self) -> str:
        """The plain baseline beside it."""
        return f"logistic regression on {self.plain_name}: {self.plain.percent()}"

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "plain": asdict(self.plain),
            "chosen": self.best.name,
            "sources": [r.to_dict() for r in self.rows],
            "not_tried": dict(self.skipped),
            "notes": list(self.notes),
            "examples": self.examples,
            "seconds": round(self.seconds, 1),
        }

    def rivals(self) -> judge.Rivals | None:
        """Held-out predictions of every shortlisted source, for a fit that must score this choice as well."""
        tried = sorted((r for r in self.rows if r.logits is not None), key=lambda r: -r.log_me)
        if not self.whole or len(tried) < 2:
            return None
        return judge.Rivals([r.logits for r in tried if r.logits is not None], tried.index(self.best))


def rank(
    data: Any,
    labels: Sequence[Any] | None = None,
    *,
    sources: Sequence[str] | str | None = None,
    label: str | None = None,
    group: str | None = None,
    groups: Sequence[Any] | None = None,
    budget: str | float = "5m",
    seed: int = 0,
    allow_bad: bool = False,
) -> Ranking:
    """Compare pre-trained networks on labelled examples; ``data`` and the like are as for ``fit``.

    ``sources``: names, or one text with commas; default: all that are at hand for this kind of input. Every source's
    features of up to 400 examples give its log evidence (LogME, ICML 2021), the three best are compared by probes
    inside the folds, at the network's output and from all depths. The one with the most evidence stays unless
    another's probe is better by more than a standard error: with few labels held-out accuracy alone is mostly chance.
    Raises DataError, SourceError, OptionError.
    """
    check_seed(seed)
    target = read(data, labels, label=label, group=group, groups=groups)
    return rank_target(target, sources, Budget(parse_budget(budget)), seed=seed, allow_bad=allow_bad, tell=True)


def rank_target(
    target: Target, names: Sequence[str] | str | None, clock: Budget, *, seed: int, allow_bad: bool, tell: bool = False
) -> Ranking:
    """``rank`` on a target that has been read; ``tell`` says what the audit found."""
    chosen = _candidates(target, names)
    seen = extract(chosen[0], target.modality, target.examples, kind=PLAIN, what="reading")
    clean, found = audit(target, seen.digests, seen.problems, seen.all_raw(), allow_bad=allow_bad)
    if tell:
        for line in found.lines():
            say(line)
    rows = draw(clean.labels, found.blocks, MOST, seed)
    part, blocks = clean.take(rows), found.blocks[rows]
    sample = draw(part.labels, blocks, SAMPLE, seed)
    ranked, skipped = _evidence(chosen, part.take(sample), clock)
    ranked.sort(key=lambda pair: -pair[1].log_me)
    folds = split(part.labels, blocks, seed=seed)
    for source, row in ranked[:SHORTLIST]:
        start = time.monotonic()
        pooled = extract(source, part.modality, part.examples, what=f"features of {source.name}")
        _probe(row, source, pooled, part, blocks, folds, seed)
        row.seconds += time.monotonic() - start
    short = [row for _, row in ranked[:SHORTLIST]]
    best = short[judge.choose([_right(row, part.labels) for row in short], blocks)]
    order = sorted(short, key=lambda row: -row.accuracy.value if row.accuracy else 0.0)
    others = [row for _, row in ranked[SHORTLIST:]]
    notes = _conditions(best, len(clean))
    raw = seen.subset(found.rows[rows]).raw(np.arange(len(part)))
    plain = adapt.held_out_logits(raw, part.labels, len(part.classes), blocks, folds, seed=seed)
    return Ranking(
        [*order, *others], best, skipped, notes, len(part), clock.spent(), target.name, target.modality.plain_name,
        _accuracy(plain, part.labels, blocks, seed), len(rows) == len(clean),
    )  # fmt: skip


def _candidates(target: Target, names: Sequence[str] | str | None) -> list[Source]:
    """The sources to compare, the smallest first. Raises OptionError for one of another input type."""
    kind = target.modality.name
    if names is None:
        known = [e["name"] for e in list_sources() if e["at_hand"] and e["modality"] == kind]
    else:
        known = [n.strip() for n in (names.split(",") if isinstance(names, str) else names) if n.strip()]
    opened: dict[str, Source] = {}
    for name in known:
        try:
            source = open_source(name)
            check_modality(source, target.modality)
            _ = source.facts  # opens and converts it, the first time
        except SourceError as error:
            if names is not None:
                raise
            say(f"left out: {error}")
            continue
        opened.setdefault(source.digest, source)
    if not opened:
        raise SourceError(f"no source for {kind} input is at hand; name some with --sources")
    return sorted(opened.values(), key=lambda source: source.facts["parameters"])


def _evidence(
    sources: Sequence[Source], sample: Target, clock: Budget
) -> tuple[list[tuple[Source, Ranked]], dict[str, str]]:
    """The log evidence of each source on the sample, as far as the time goes."""
    found: list[tuple[Source, Ranked]] = []
    skipped: dict[str, str] = {}
    for source in sources:
        milliseconds = per_prediction(source)
        estimate = milliseconds / 1000 * len(sample) / cores()
        if found and estimate > clock.left():
            skipped[source.name] = f"features of {len(sample)} examples would take about {estimate:.0f} s"
            continue
        start = time.monotonic()
        pooled = extract(source, sample.modality, sample.examples, what=f"features of {source.name}")
        seconds = time.monotonic() - start
        features = pooled.take(np.arange(len(sample)))
        scores = [
            judge.log_me(features[:, slice(*source.columns(where))], sample.labels)
            for where in _depths(source).values()
        ]
        known = source.card.get("examples")
        found.append(
            (
                source,
                Ranked(
                    source.name,
                    source.facts["parameters"] / 1e6,
                    int(known) if isinstance(known, int) else None,
                    max(scores),
                    milliseconds,
                    seconds,
                ),
            )
        )
        say(f"{source.name}: evidence {max(scores):.3f}, {milliseconds:.1f} ms per prediction")
    return found, skipped


def _depths(source: Source) -> dict[str, int | str | None]:
    return {"output": None, "all depths": "all"} if source.stages else {"output": None}


def _probe(
    row: Ranked, source: Source, pooled: Features, target: Target, blocks: Array, folds: Folds, seed: int
) -> None:
    """Held-out predictions of probes at several depths; those of output and all depths compete inside the folds."""
    features = pooled.take(np.arange(len(target)))
    k, labels = len(target.classes), target.labels
    n = len(source.stages)
    shown = {f"stage {i}": i for i in sorted({round(x) for x in np.linspace(1, n, DEPTHS_SHOWN)})} if n else {}
    tried: dict[str, Array] = {}
    for name, where in {**_depths(source), **shown}.items():
        columns = features[:, slice(*source.columns(where))]
        tried[name] = adapt.held_out_logits(columns, labels, k, blocks, folds, seed=seed)
    row.profile = {name: float((logits.argmax(axis=1) == labels).mean()) for name, logits in tried.items()}
    rivals = [tried[name] for name in _depths(source)]
    rights = [(logits.argmax(axis=1) == labels).astype(float) for logits in rivals]
    pick = judge.cross_fitted(rights, blocks, [held for _, held in folds])
    row.logits = np.stack(rivals)[pick, np.arange(len(labels))]
    row.at = list(_depths(source))[judge.choose(rights, blocks)]
    row.accuracy = _accuracy(row.logits, labels, blocks, seed)


def _accuracy(logits: Array, labels: Array, blocks: Array, seed: int) -> judge.Estimate:
    return judge.score(judge.softmax(logits, 1.0), labels, blocks, seed=seed).accuracy


def _right(row: Ranked, labels: Array) -> Array:
    assert row.logits is not None
    right: Array = (row.logits.argmax(axis=1) == labels).astype(float)
    return right


def _conditions(best: Ranked, n: int) -> list[str]:
    """The three conditions of transfer (same input, much more source data, lower features that help), as measured."""
    found = []
    if best.examples is None:
        found.append(f"{best.name} does not say how many examples it learnt from")
    elif best.examples < FEW_SOURCE_EXAMPLES * n:
        found.append(
            f"caution: {best.name} learnt from {best.examples:,} examples, hardly more than the {n:,} here; "
            "a head start needs far more (compare with --control scratch)"
        )
    else:
        found.append(f"{best.name} learnt from {best.examples / n:,.0f} times as many examples as there are here")
    stages = {name: value for name, value in best.profile.items() if name.startswith("stage")}
    if stages:
        top = max(stages, key=lambda name: stages[name])
        found.append(
            f"depth: a probe is right on {100 * best.profile['output']:.1f} % at the output, on "
            f"{100 * stages[top]:.1f} % at {top}, the best single stage, and on "
            f"{100 * best.profile['all depths']:.1f} % from all depths"
            + ("; lower stages help" if best.at == "all depths" else "")
        )
    return found


def per_prediction(source: Source) -> float:
    """One core's milliseconds for one prediction of the network, without decoding: the best of three batches."""
    import torch

    backbone = source.backbone()
    backbone.place(device(), compute_dtype())
    batch = backbone.example_input(8).to(device(), backbone.dtype)
    times = []
    with half_the_cores(), torch.inference_mode():
        for _ in range(4):
            start = time.perf_counter()
            backbone.network(batch).float().cpu()
            times.append(time.perf_counter() - start)
    return 1000 * min(times[1:]) / len(batch)
