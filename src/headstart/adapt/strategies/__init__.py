"""Ways to adapt a source. A new one is one new module with a ``STRATEGY``; nobody else has to know."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Protocol

from headstart._errors import OptionError
from headstart.adapt._job import Candidate, Job


class Strategy(Protocol):
    """A family of candidates."""

    name: str
    cost: int
    """Rank in the order of cost: the cheaper is tried first and wins ties."""
    transfers: bool
    """False for what starts without the source's weights (a control, not a choice of ``auto``)."""

    trains: bool
    """Whether weights of the network change; a source that stays frozen has none of these."""

    def candidates(self, job: Job) -> list[Candidate]:
        """What to try for this job, the cheapest first."""


@cache
def all_strategies() -> tuple[Strategy, ...]:
    """Every strategy, the cheapest first."""
    names = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    found = [importlib.import_module(f"{__name__}.{name}").STRATEGY for name in names]
    return tuple(sorted(found, key=lambda s: s.cost))


def strategies_for(name: str) -> tuple[Strategy, ...]:
    """The strategy called ``name``; for "auto" all that transfer, the cheapest first. Raises OptionError."""
    if name == "auto":
        return tuple(s for s in all_strategies() if s.transfers)
    chosen = tuple(s for s in all_strategies() if s.name == name)
    if not chosen:
        known = ", ".join(["auto", *(s.name for s in all_strategies())])
        raise OptionError(f"no strategy is called {name!r}; choose one of {known}")
    return chosen
