"""Libraries of architectures. Each module is one: how its networks are made, with published weights or at random."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from headstart._errors import SourceError

if TYPE_CHECKING:
    from torch import nn

    from headstart.sources._source import Source


class Builder(Protocol):
    """One library of architectures. A new one is one new module here; its name is ``Source.library``."""

    VERSION: str
    """Changes whenever networks are put together differently; part of the key of everything cached."""

    def create(
        self,
        architecture: str,
        model_args: Mapping[str, Any],
        *,
        seed: int,
        preprocessing: Mapping[str, Any],
        files: Mapping[str, Path],
    ) -> nn.Module:
        """The network without its output layer, in evaluation mode, with random weights fixed by ``seed``.

        ``files`` are the data files that ``published`` handed back, by name; they may come from a stranger. Nothing
        is drawn from torch's global generator. An attribute ``about`` of the network is added to the source's facts.
        Raises SourceError, or what torch raises, where they cannot be.
        """

    def published(self, source: Source) -> tuple[nn.Module, Mapping[str, bytes]]:
        """The same with the published weights, and the data files that ``create`` needs besides weights."""


@cache
def builder(library: str) -> Builder:
    """The library of that name. Raises SourceError if there is none."""
    known = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    if library not in known:
        raise SourceError(f"no library of architectures is called {library!r}; this installation has {known}")
    return cast(Builder, importlib.import_module(f"{__name__}.{library}"))
