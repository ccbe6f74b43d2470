"""Input types. A new one is one new module here with a ``MODALITY`` object; nobody else has to know."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from headstart._errors import DataError
from headstart.modalities._base import Array, Example, Modality, Preprocessing, digest

__all__ = ["Array", "Example", "Modality", "Preprocessing", "all_modalities", "digest", "modality"]


@cache
def all_modalities() -> tuple[Modality, ...]:
    """Every input type that this installation can read."""
    names = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    return tuple(importlib.import_module(f"{__name__}.{name}").MODALITY for name in names)


def modality(name: str) -> Modality:
    """The input type called ``name``. Raises DataError if there is none."""
    for candidate in all_modalities():
        if candidate.name == name:
            return candidate
    known = ", ".join(m.name for m in all_modalities())
    raise DataError(f"no input type is called {name!r}; this installation reads: {known}")
