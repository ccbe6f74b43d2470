"""What a run starts from: the size of the input, the network with random weights, the part that is held out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart._errors import BadExample, DataError, OptionError
from headstart.modalities import Array
from headstart.targets import Target

if TYPE_CHECKING:
    import torch

_HELD_OUT = 0.08  # of each class
_MOST_HELD_OUT = 5000
_STEP = 16  # a size chosen here is a multiple of this
_LEAST = 32


def read_target(data: Any, label: str | None) -> Target:
    """``data`` as a target of at least two classes. Raises DataError."""
    from headstart.targets import read

    target = read(data, label=label)
    if target.modality.name != "image":
        raise DataError(f"pretrain learns from images so far, and {target.name} holds {target.modality.name}")
    seen = np.unique(target.labels)
    if len(seen) < 2:
        only = target.classes[int(seen[0])] if len(seen) else "none"
        raise DataError(f"{target.name} has one class only ({only}); pre-training needs at least two")
    return target


def check_architecture(name: str) -> None:
    """Raises OptionError with close matches if timm knows no such architecture."""
    import difflib

    import timm

    if timm.is_model(name) and "." not in name:
        return
    near = difflib.get_close_matches(name, timm.list_models(), 3)
    hint = f"did you mean {', '.join(near)}?" if near else "`timm.list_models()` names them"
    raise OptionError(f"no architecture is called {name!r}; {hint}")


def choose_size(architecture: str, target: Target, size: int | None) -> int:
    """``size``, else the architecture's own, or less if most images are smaller."""
    if size is not None:
        if size < 8:
            raise OptionError(f"size is {size}; it is the side of the square input in pixels, at least 8")
        return size
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(architecture, allow_unregistered=True)
    own = int(known.input_size[-1]) if known is not None else 224
    sides = [min(picture.size) for picture in _sample(target)]
    if not sides or (known is not None and known.fixed_input_size):
        return own
    middle = int(np.median(sides))
    return min(own, max(_LEAST, -(-middle // _STEP) * _STEP))


def _sample(target: Target, n: int = 32) -> list[Any]:
    rows = np.unique(np.linspace(0, len(target) - 1, n).astype(int))
    found = []
    for row in rows:
        try:
            found.append(target.modality.decode(target.examples[row].raw()))
        except BadExample:  # counted when everything is decoded
            continue
    return found


def new_network(
    architecture: str, model_args: Mapping[str, Any], classes: int, size: int, seed: int
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The network with random weights and the arguments it was made with (``img_size`` added where it needs that).

    Raises OptionError if it cannot be made or does not take images of that size.
    """
    reasons = []
    for args in (dict(model_args), {**model_args, "img_size": size}):
        try:
            return _checked(architecture, args, classes, size, seed), args
        except (AssertionError, RuntimeError, TypeError, ValueError, KeyError) as error:
            reasons.append(" ".join(str(error).split())[:160])
    raise OptionError(
        f"{architecture} with model_args {dict(model_args)} does not take images of {size} × {size} pixels: "
        f"{reasons[0]}; choose another size or other model_args"
    )


def _checked(architecture: str, args: dict[str, Any], classes: int, size: int, seed: int) -> torch.nn.Module:
    import timm
    import torch

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        network: torch.nn.Module = timm.create_model(architecture, num_classes=classes, **args)
        network.eval()(torch.zeros(1, 3, size, size))
    return network


def image_preprocessing(size: int, images: Array | None = None) -> dict[str, Any]:
    """The image modality's preprocessing; mean and std are measured on (at most 2,000 of) ``images``."""
    mean, std = [0.5] * 3, [0.5] * 3
    if images is not None:
        rows = np.unique(np.linspace(0, len(images) - 1, 2000).astype(int))
        pixels = images[rows].reshape(-1, images.shape[-1]).astype(np.float32) / 255
        mean = [round(float(v), 4) for v in pixels.mean(0, dtype=np.float64)]
        std = [round(max(0.01, float(v)), 4) for v in pixels.std(0, dtype=np.float64)]
    return {
        "size": [size, size], "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic",
        "mean": mean, "std": std, "channels": 3,
    }  # fmt: skip


def hold_out(labels: Array, groups: Array | None, seed: int) -> tuple[Array, Array]:
    """Rows to train on and rows held out: of each class at most 8 % (5,000 in all); groups stay together."""
    rng, n = np.random.default_rng([seed, 4]), len(labels)
    share = min(_HELD_OUT, _MOST_HELD_OUT / n)
    if groups is not None and (groups != "").any():
        keys = np.where(groups == "", np.char.add("row ", np.arange(n).astype(str)), groups)
        names = rng.permutation(np.unique(keys))
        held = np.isin(keys, names[: max(1, round(share * len(names)))])
    else:
        held = np.zeros(n, bool)
        for label in np.unique(labels):
            rows = rng.permutation(np.flatnonzero(labels == label))
            held[rows[: _of_class(len(rows), share, rng)]] = True
    if held.all() or not held.any():
        raise DataError(f"{n} examples are too few to train on some and hold some out")
    return np.flatnonzero(~held), np.flatnonzero(held)


def _of_class(n: int, share: float, rng: np.random.Generator) -> int:
    """How many of n examples to hold out: the share, rounded at random so that small classes have their turn."""
    return min(n - 1, int(share * n + rng.random()))
