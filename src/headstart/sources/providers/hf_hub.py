"""Encoders in the layout of the library transformers: a repository on the hub as ``hf/user/name``, or a folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headstart._errors import DataError, SourceError
from headstart.modalities import modality
from headstart.sources._catalogue import catalogue, known_of, listed
from headstart.sources._source import Source, read_json
from headstart.sources.providers._hub import cached, fetch, repositories

ORDER = 0
PREFIX = "hf/"
CONFIG, PREPARING, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
LEFT_OUT = {
    "architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "id2label", "label2id", "auto_map",
}  # fmt: skip
"""Entries of a configuration that say nothing of the encoder's form; ``auto_map`` names a repository's own code."""
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for what the image modality calls by name."""


def open(name: str) -> Source | None:
    """``hf/user/name`` from the local hub cache or the network, or a folder with transformers' config.json."""
    if name.startswith(PREFIX):
        repo = name.removeprefix(PREFIX)
        if repo.count("/") != 1 or not all(repo.split("/")):
            raise SourceError(f"{name} is no name of a repository; it is hf/USER/NAME")
        places = fetch(repo, [[WEIGHTS], [CONFIG], [PREPARING]], name)
        card = {"about": f"transformers network {repo}", "origin": repo, "hub_repo": repo, "licence": "see its card"}
        licence = {"licence": catalogue()[name]["licence"]} if name in catalogue() else {}
        weights, config, preparing = places
        return _source(name, weights, config, preparing, {**card, **licence, **known_of(name)})
    folder = Path(name).expanduser()
    if not (folder / CONFIG).is_file() or "model_type" not in read_json(folder / CONFIG):
        return None
    if not (folder / WEIGHTS).is_file() and any(folder.glob("*.onnx")):
        return None  # another tool's description beside an ONNX file
    for file in (WEIGHTS, PREPARING):
        if not (folder / file).is_file():
            raise SourceError(f"the transformers folder {name} has no {file}; copy it beside its {CONFIG}")
    card = {"about": f"the transformers folder {folder.name}", "licence": "see its card"}
    return _source(name, folder / WEIGHTS, folder / CONFIG, folder / PREPARING, card)


def entries() -> list[dict[str, Any]]:
    """The catalogue's transformers networks."""
    here = repositories()
    known = [entry for name, entry in catalogue().items() if name.startswith(PREFIX)]
    return [listed(entry, _where(entry["name"].removeprefix(PREFIX), here)) for entry in known]


def _where(repo: str, here: Mapping[str, str]) -> str | None:
    installed = importlib.util.find_spec("transformers") is not None
    whole = installed and all(cached(repo, [file]) for file in (WEIGHTS, CONFIG, PREPARING))
    return here.get(repo) if whole else None


def _source(name: str, weights: Path, config: Path, preparing: Path, card: Mapping[str, Any]) -> Source:
    settings = read_json(config)
    try:
        preprocessing = preprocessing_of(read_json(preparing))
        modality("image").check(preprocessing)
    except (KeyError, TypeError, ValueError, DataError) as error:
        raise SourceError(
            f"{preparing} describes no preparation of pictures ({error!r} is missing or wrong)"
        ) from error
    args = {key: value for key, value in settings.items() if key not in LEFT_OUT and not key.startswith("_")}
    return Source(
        name, "image", str(settings.get("model_type")), preprocessing, weights, args, card, library="transformers"
    )


def preprocessing_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' preprocessor_config.json as the image modality's preprocessing. Raises what a wrong one may."""
    size, crop = settings["size"], settings.get("crop_size")
    cropped = bool(settings.get("do_center_crop")) and crop is not None
    short = size if isinstance(size, int) else size.get("shortest_edge")
    whole = _sides(size) if short is None or (isinstance(size, int) and not cropped) else [int(short)] * 2
    final = _sides(crop) if cropped else whole
    scale = float(settings.get("rescale_factor", 1 / 255)) * 255  # of pixels that reach the network
    plain = settings.get("do_normalize", True)
    return {
        "size": final,
        "crop_pct": min(1.0, final[0] / whole[0]),
        "crop_mode": "center" if cropped or (short is not None and not isinstance(size, int)) else "squash",
        "interpolation": RESAMPLING[int(settings.get("resample", 2))],
        "mean": [float(v) / scale for v in (settings["image_mean"] if plain else (0, 0, 0))],
        "std": [float(v) / scale for v in (settings["image_std"] if plain else (1, 1, 1))],
        "channels": 3,
    }


def _sides(size: Any) -> list[int]:
    return [int(size)] * 2 if isinstance(size, int) else [int(size["height"]), int(size["width"])]
