"""Places where sources come from. Each module has ``ORDER``, ``open(name) -> Source | None`` and ``entries()``."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any, Protocol, cast

from headstart.sources._source import Source


class Provider(Protocol):
    """One kind of place. ``open`` returns None for names that are not its own."""

    ORDER: int

    def open(self, name: str) -> Source | None:
        """The source of that name, None if the name is another provider's; SourceError if it is broken."""

    def entries(self) -> list[dict[str, Any]]:
        """What it has to offer, as ``headstart sources`` lists it; ``at_hand`` if that opens without a network."""


@cache
def providers() -> tuple[Provider, ...]:
    """All providers, the local ones first."""
    names = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    modules = [cast(Provider, importlib.import_module(f"{__name__}.{name}")) for name in names]
    return tuple(sorted(modules, key=lambda m: m.ORDER))
