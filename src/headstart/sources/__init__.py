"""Pre-trained networks. A new kind of place to find one is one new module in ``providers/``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart._errors import SourceError
from headstart.sources._source import DEFAULT_LIBRARY, Source, build, file_sha256
from headstart.sources.providers import providers

if TYPE_CHECKING:
    from headstart.sources._backbone import Backbone

__all__ = [
    "DEFAULT_LIBRARY",
    "Backbone",
    "Source",
    "build",
    "file_sha256",
    "list_sources",
    "open_source",
    "save_source",
]


def open_source(name: str | Path) -> Source:
    """The source called ``name``: ``bundled/…``, ``timm/…``, a folder, an ONNX file, or a bare name of one of these.

    A local path or cache wins over the network. Raises SourceError with the places that were looked at.
    """
    for provider in providers():
        found = provider.open(str(name))
        if found is not None:
            return found
    known = ", ".join(entry["name"] for entry in list_sources() if entry["name"].startswith("bundled/"))
    raise SourceError(
        f"no source is called {str(name)!r}: it is no folder here, not bundled ({known}) and no timm architecture; "
        "`headstart sources` lists what is at hand"
    )


def list_sources() -> list[dict[str, Any]]:
    """What is at hand without a network: dicts with ``name``, ``architecture``, ``about``, ``licence``, ``where``."""
    return [entry for provider in providers() for entry in provider.at_hand()]


def __getattr__(name: str) -> Any:
    if name == "Backbone":
        from headstart.sources._backbone import Backbone

        return Backbone
    if name == "save_source":
        from headstart.sources._save import save_source

        return save_source
    raise AttributeError(name)
