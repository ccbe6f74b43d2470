"""A folder in timm's ``local-dir`` layout: ``config.json`` beside ``model.safetensors``. Our own sources are such."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headstart._errors import DataError, SourceError
from headstart.modalities import modality
from headstart.sources._source import Source, read_json

ORDER = 1
PULLED = "pulled.json"
"""Written beside what was pulled from a hub: repository, commit, checksums of the files."""
WEIGHTS = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin", "model.pth")


def open(name: str) -> Source | None:
    """The source in folder ``name``; None if there is no such folder."""
    path = Path(name).expanduser()
    if not path.is_dir():
        if path.is_absolute() or name.startswith((".", "~")):
            raise SourceError(f"there is no source folder {name}")
        return None
    return read_folder(path, name)


def entries() -> list[dict[str, Any]]:
    """Folders are named by their path; none is listed."""
    return []


def read_folder(path: Path, name: str) -> Source:
    """The source in a folder. Raises SourceError for a missing, damaged or hostile config or weights."""
    config = read_config(path)
    weights = next((path / w for w in WEIGHTS if (path / w).is_file()), None)
    if weights is None:
        raise SourceError(f"the source folder {path} has no {WEIGHTS[0]}; copy the weights beside its config.json")
    try:
        architecture, cfg = str(config["architecture"]), dict(config.get("pretrained_cfg") or config)
        preprocessing = preprocessing_of(cfg)
        card = {"num_classes": config.get("num_classes", cfg.get("num_classes")), **dict(config.get("card") or {})}
        card |= {"hub_repo": pulled["repo"]} if (pulled := pulled_from(path)) else {}
        args, kind = dict(config.get("model_args") or {}), str(card.get("modality", "image"))
        modality(kind).check(preprocessing)
    except (KeyError, TypeError, ValueError, DataError) as error:
        raise SourceError(f"{path / 'config.json'} is not a timm config ({error!r} is missing or wrong)") from error
    return Source(name, kind, architecture, preprocessing, weights, args, card)


def pulled_from(path: Path) -> dict[str, Any] | None:
    """Where the folder was pulled from: ``repo``, ``revision`` and ``files`` (name to sha256); None if it was not."""
    try:
        mark = json.loads((path / PULLED).read_text(encoding="utf-8"))
        files = {str(name): str(found) for name, found in dict(mark["files"]).items()}
        return {"repo": str(mark["repo"]), "revision": str(mark["revision"]), "files": files}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def read_config(path: Path) -> dict[str, Any]:
    """``config.json`` of a source folder as a dict."""
    file = path / "config.json"
    if not file.is_file():
        raise SourceError(f"{path} is not a source folder: it has no config.json")
    config = read_json(file)
    if "architecture" not in config:
        raise SourceError(f"{file} names no architecture; a timm local-dir config is expected")
    return config


def preprocessing_of(cfg: dict[str, Any]) -> dict[str, Any]:
    """timm's pretrained_cfg as the preprocessing of the image modality."""
    channels, height, width = (int(v) for v in cfg.get("input_size", (3, 224, 224)))
    return {
        "size": [height, width],
        "crop_pct": float(cfg.get("crop_pct", 0.875)),
        "crop_mode": str(cfg.get("crop_mode", "center")),
        "interpolation": str(cfg.get("interpolation", "bicubic")),
        "mean": [float(v) for v in cfg.get("mean", (0.485, 0.456, 0.406))],
        "std": [float(v) for v in cfg.get("std", (0.229, 0.224, 0.225))],
        "channels": channels,
    }
