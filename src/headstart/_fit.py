"""The main story: read, open, extract once, audit, try strategies inside the folds, choose, judge, hand back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headstart import adapt
from headstart._budget import Budget, parse_budget
from headstart._errors import OptionError
from headstart._rank import rank_target
from headstart._run import Run
from headstart._runtime import check_seed, say
from headstart.deliver import Model, check_out
from headstart.features import check_modality, extract
from headstart.modalities import Modality
from headstart.sources import Source, open_source
from headstart.targets import audit, read

CONTROLS = ("auto", "scratch", "none")


def fit(
    data: Any,
    labels: Sequence[Any] | None = None,
    *,
    source: str | Path | None = None,
    strategy: str = "auto",
    cut: int | str | None = None,
    head: str = "linear",
    label: str | None = None,
    group: str | None = None,
    groups: Sequence[Any] | None = None,
    test: Any = None,
    budget: str | float = "5m",
    views: int | None = None,
    control: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    allow_bad: bool = False,
) -> Model:
    """Adapt a pre-trained network to labelled examples; returns a model with an honest score and a verdict.

    ``data``: a folder per class, a folder with ``metadata.csv``, a CSV or Parquet table, or a list of paths or
    arrays with ``labels``. ``source``: a pre-trained network by name or folder (default: the modality's bundled
    one), or "auto": the one that ``rank`` finds best among those at hand. ``strategy``: "auto" tries extract,
    partial, light and full in order of cost within ``budget`` and keeps the cheaper on ties; or one of these, or
    "scratch". ``cut``: the stage to cut after ("all": all depths at once, with extract). ``head``: "linear" or "mlp".
    ``label``, ``group``: columns of a table; ``groups``: a list beside ``labels``. ``test``: examples kept aside,
    scored once. ``budget``: seconds, or "2m". ``views``: variations per example for training a part of the network
    (default 4 for up to 400 examples, then 1). ``control``: "scratch" runs the from-scratch control whatever the
    budget, "auto" if time is left, "none" not. ``out``: model folder.

    Raises DataError, SourceError, OptionError. A killed run continues when it is called again with the same
    arguments; the result is the same for the same seed.
    """
    check_options(strategy, control, head, cut, views, out)
    check_seed(seed)
    clock = Budget(parse_budget(budget))
    target = read(data, labels, label=label, group=group, groups=groups, test=test)
    ranking = rank_target(target, None, clock, seed=seed, allow_bad=allow_bad) if source == "auto" else None
    if ranking:
        say("\n".join(ranking.lines()))
    default = ranking.best.name if ranking else target.modality.default_source
    chosen = open_source(source if source not in (None, "auto") else default)
    check_source(chosen, target.modality, strategy)
    pooled = extract(chosen, target.modality, target.examples)
    target, found = audit(target, pooled.digests, pooled.problems, pooled.all_raw(), allow_bad=allow_bad)
    pooled = pooled.subset(found.rows)
    for line in found.lines():
        say(line)
    options = {"strategy": strategy, "cut": cut, "head": head, "views": views, "control": control}
    run = Run(target, found, chosen, pooled, options, seed, clock, ranking=ranking)
    run.check_test()
    run.try_strategies()
    run.compare_with_controls()
    model = run.finish()
    if out is not None:
        model.save(out)
        say(f"model saved in {out}")
    run.job.journal.finish()
    return model


def check_source(source: Source, kind: Modality, strategy: str) -> None:
    """Fail before any work is done if the source is for other examples, or cannot do what was asked for by name."""
    check_modality(source, kind)
    asked = adapt.strategies_for(strategy)
    if strategy != "auto" and any(s.trains for s in asked) and source.frozen_because:
        raise OptionError(
            f"--strategy {strategy} trains the network, but {source.name} stays frozen: {source.frozen_because}; "
            "use --strategy extract, or auto"
        )


def check_options(
    strategy: str, control: str, head: str, cut: int | str | None, views: int | None, out: str | Path | None
) -> None:
    """Fail on contradictions before anything is read."""
    adapt.strategies_for(strategy)
    if control not in CONTROLS:
        raise OptionError(f"no control is called {control!r}; choose one of {', '.join(CONTROLS)}")
    if head not in ("linear", "mlp"):
        raise OptionError(f"no head is called {head!r}; choose linear or mlp")
    if cut is not None and cut != "all" and (isinstance(cut, bool) or not isinstance(cut, int)):
        raise OptionError(f"--cut {cut} is no stage; it takes the number of a stage, or all")
    if cut is not None and strategy not in ("auto", "extract", *(() if cut == "all" else ("partial",))):
        raise OptionError(f"--cut {cut} does not go with --strategy {strategy}; leave one of them out")
    if views is not None and views < 1:
        raise OptionError(f"views is {views}; at least the picture itself is needed: 1 or more")
    if out is not None:
        check_out(Path(out))
