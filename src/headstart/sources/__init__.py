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
    "public_name",
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


def public_name(name: str) -> str:
    """A source's name without where it lies on this machine: of a folder the last part, any other name as it is."""
    places = tuple(prefix for provider in providers() if (prefix := getattr(provider, "PREFIX", "")))
    return name if name.startswith(places) else name.replace("\\", "/").rstrip("/").rpartition("/")[2]


def list_sources() -> list[dict[str, Any]]:
    """The bundled, cached and curated sources, those at hand first: dicts with ``name``, ``modality``,
    ``architecture``, ``parameters`` (millions, without the output layer), ``input`` (pixels), ``trained_on``,
    ``examples``, ``licence``, ``about``, ``at_hand`` (opens without a network) and ``where``."""
    entries = [entry for provider in providers() for entry in provider.entries()]
    return sorted(entries, key=lambda entry: not entry["at_hand"])


def __getattr__(name: str) -> Any:
    if name == "Backbone":
        from headstart.sources._backbone import Backbone

        return Backbone
    if name == "save_source":
        from headstart.sources._save import save_source

        return save_source
    raise AttributeError(name)
