"""timm's architectures."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headstart._errors import SourceError
from headstart.sources._source import Source, channels, read_weights

VERSION = "1"
_CREATING = threading.Lock()  # initialisation draws from torch's one global generator
LOADERS = {
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "num_classes",
    "in_chans", "features_only", "scriptable", "exportable", "no_jit",
}  # fmt: skip
"""Arguments of timm's ``create_model`` that a config from elsewhere must not set: they load files, or are ours."""
Remap = Callable[[dict[str, torch.Tensor], nn.Module], dict[str, torch.Tensor]]


def create(
    architecture: str,
    model_args: Mapping[str, Any],
    *,
    seed: int,
    preprocessing: Mapping[str, Any] | None = None,
    files: Mapping[str, Path] | None = None,
    weights: dict[str, torch.Tensor] | None = None,
    remap: Remap | None = None,
    num_classes: int | None = None,
) -> nn.Module:
    """A timm network without its output layer; with ``weights``, loaded strictly by timm's own rules.

    Raises RuntimeError, KeyError or ValueError where weights and architecture disagree.
    """
    import timm

    if not timm.is_model(architecture):
        raise SourceError(f"no architecture is called {architecture!r}{_close(architecture)}")
    if forbidden := LOADERS & set(model_args):
        raise ValueError(f"{', '.join(sorted(forbidden))} cannot be an argument of the architecture")
    planes = channels(preprocessing or {})
    overlay: dict[str, Any] = {}
    with _CREATING, warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        if weights is not None:
            if remap is not None:
                weights = remap(weights, timm.create_model(architecture, in_chans=planes, **model_args))
            overlay = {"state_dict": weights, "custom_load": False}
            if num_classes:
                overlay["num_classes"] = num_classes
            overlay["input_size"] = (planes, *_default_size(architecture))
        network: nn.Module = timm.create_model(
            architecture,
            pretrained=weights is not None,
            num_classes=0,
            in_chans=planes,
            pretrained_cfg_overlay=overlay or None,
            **model_args,
        )
    return network.eval()


def published(source: Source) -> tuple[nn.Module, Mapping[str, bytes]]:
    """The network with the source's weights; a timm architecture needs no other files."""
    network = create(
        source.architecture,
        source.model_args,
        seed=0,
        preprocessing=source.preprocessing,
        weights=read_weights(source.weights),
        remap=source.remap,
        num_classes=source.card.get("num_classes"),
    )
    return network, {}


def _default_size(architecture: str) -> tuple[int, int]:
    from timm.models import get_pretrained_cfg

    cfg = get_pretrained_cfg(architecture, allow_unregistered=True)
    return tuple(cfg.input_size[1:]) if cfg is not None else (224, 224)


def _close(architecture: str) -> str:
    import difflib

    import timm

    near = difflib.get_close_matches(architecture, timm.list_models(), 3)
    return f"; did you mean {', '.join(near)}?" if near else "; `timm.list_models()` names them"
