"""An ONNX file by its path, or a folder with a single one; a JSON file beside it may say what it takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headstart._errors import SourceError
from headstart._runtime import say
from headstart.modalities import all_modalities, modality
from headstart.sources._onnx import require
from headstart.sources._source import Source, read_json
from headstart.sources.providers.folder import WEIGHTS

ORDER = 0
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
USUAL = {"crop_pct": 0.875, "crop_mode": "center", "interpolation": "bicubic"}
DEFAULT_SIDE = 224  # pixels, where neither the graph nor the JSON file says

TEXT, OBJECT, LIST = "a text", "an object", "a list of names"
KEYS = {"modality": TEXT, "preprocessing": OBJECT, "input": TEXT, "output": TEXT, "stages": LIST, "card": OBJECT}
"""What the JSON file may hold: ``preprocessing`` as the modality understands it (images: size, mean, std,
interpolation, crop_pct, crop_mode, channels; mean 0 and std 1/255 for a network that wants 0 to 255; other modalities:
``input_shape`` of one example where the graph leaves it open), ``input`` and ``output`` (names of tensors), ``stages``
(nodes or tensors to cut after), ``card`` (about, licence, examples …)."""


def open(name: str) -> Source | None:
    """The source in the ONNX file ``name``, or in a folder that holds one and nothing else to be a source."""
    path = _file(name)
    if path is None:
        return None
    require()
    from headstart.sources._onnx._file import external_files, read
    from headstart.sources._onnx._trim import Input, input_of

    settings, place = _settings(path)
    taken: Input = input_of(read(path), path, settings.get("input"))
    kind = settings.get("modality", "image")
    try:
        if kind == "image":
            preprocessing, shape = _picture(taken, settings.get("preprocessing"), path)
        else:
            preprocessing = dict(settings.get("preprocessing") or {})
            shape = _shape(taken, preprocessing, path)
            preprocessing["input_shape"] = shape
            if kind in [known.name for known in all_modalities()]:
                modality(kind).check(preprocessing)
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"the preprocessing in {place or path} cannot be ({error})") from error
    named: dict[str, Any] = {key: settings[key] for key in ("input", "output", "stages") if key in settings}
    args: dict[str, Any] = {"input_shape": shape, **named}
    return Source(
        name,
        kind,
        path.stem,
        preprocessing,
        path,
        args,
        {"about": f"the ONNX file {path.name}", **settings.get("card", {})},
        library="onnx",
        files={file.name: file for file in external_files(path)},
    )


def entries() -> list[dict[str, Any]]:
    """Files are named by their path; none is listed."""
    return []


def _file(name: str) -> Path | None:
    path = Path(name).expanduser()
    if path.suffix.lower() == ".onnx":
        if not path.is_file():
            raise SourceError(f"there is no ONNX file {name}")
        return path
    if not path.is_dir() or any((path / weights).is_file() for weights in WEIGHTS):
        return None
    found = sorted(p for p in path.iterdir() if p.suffix.lower() == ".onnx" and p.is_file())
    if len(found) > 1:
        names = ", ".join(p.name for p in found)
        raise SourceError(f"the folder {name} has {len(found)} ONNX files ({names}); name one of them as the source")
    return found[0] if found else None


def _settings(path: Path) -> tuple[dict[str, Any], Path | None]:
    """What the JSON file beside ``path`` says, and which file that is."""
    alone = len(list(path.parent.glob("*.onnx"))) == 1
    places = [path.with_suffix(".json"), *([path.parent / "config.json"] if alone else [])]
    place = next((p for p in places if p.is_file()), None)
    if place is None:
        return {}, None
    settings = read_json(place)
    if place.name == "config.json" and path.stem != "config":  # it may belong to another tool
        settings = {key: value for key, value in settings.items() if key in KEYS}
    for key, value in settings.items():
        if key not in KEYS:
            raise SourceError(f"{place} has an entry {key!r}, which means nothing here; it takes {', '.join(KEYS)}")
        if not _is(KEYS[key], value):
            raise SourceError(f"{place}: {key} is to be {KEYS[key]}")
    return settings, place


def _is(kind: str, value: Any) -> bool:
    if kind == LIST:
        return isinstance(value, list) and all(isinstance(v, str) for v in value)
    return isinstance(value, str if kind == TEXT else dict)


def _picture(taken: Any, given: Mapping[str, Any] | None, path: Path) -> tuple[dict[str, Any], list[int]]:
    """Preprocessing of pictures for a network that takes ``taken``, and the shape [C, H, W]."""
    dims = taken.dims[1:]
    channels = next((d for d in (dims[0], dims[-1]) if d in (1, 3)), None) if len(dims) == 3 else None
    if len(dims) != 3 or (channels is None and None not in dims):
        raise SourceError(
            f"{path} takes {taken.words()}, which is no picture; say what it takes in {path.stem}.json beside it, "
            'such as {"modality": "audio"}'
        )
    known = dict(given or {})
    channels = int(known.get("channels", channels or 3))
    sides = dims[1:] if dims[0] in (channels, None) else dims[:2]
    if "size" in known:
        size = [known["size"]] * 2 if isinstance(known["size"], int) else list(known["size"])
    else:
        size = [side or DEFAULT_SIDE for side in sides]
    if given is None:
        mean = ", ".join(f"{m:g}" for m in IMAGENET["mean"])
        say(
            f"{path}: nothing says how its pictures are prepared; assumed are {size[1]} × {size[0]} pixels and "
            f"ImageNet's mean ({mean}) and deviation; {path.stem}.json beside it may say otherwise"
        )
    preprocessing = {**USUAL, **IMAGENET, **known, "size": size, "channels": channels}
    modality("image").check(preprocessing)
    if any(have is not None and have != want for have, want in zip(sides, size)):
        raise SourceError(f"{path} takes {taken.words()}, not the {size[1]} × {size[0]} pixels of its JSON file")
    return preprocessing, [channels, *size]


def _shape(taken: Any, preprocessing: Mapping[str, Any], path: Path) -> list[int]:
    """The shape of one example, from the graph where it says, else from the JSON file."""
    given = preprocessing.get("input_shape", list(taken.dims[1:]))
    if not isinstance(given, list) or not all(type(d) is int and 0 < d <= MOST for d in given):
        raise SourceError(
            f"{path} takes {taken.words()}; say how large an example is in {path.stem}.json beside it: "
            '{"preprocessing": {"input_shape": […]}}'
        )
    return given


MOST = 2**24  # values along one axis of an example
