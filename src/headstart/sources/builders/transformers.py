"""Encoders of the library transformers: its configuration and weights as data, none of a repository's own code."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headstart._errors import SourceError
from headstart.sources._source import Source

VERSION = "1"
_CREATING = threading.Lock()  # initialisation draws from torch's one global generator
FORBIDDEN = (
    "auto_map",
    "quantization_config",
    "backbone",
    "use_timm_backbone",
    "use_pretrained_backbone",
    "custom_pipelines",
)
"""Entries of a configuration that make transformers load something else; a stranger's model folder may not."""


def require() -> None:
    """Raises SourceError if transformers is not installed."""
    import importlib.util

    if importlib.util.find_spec("transformers") is None:
        raise SourceError("hf/… networks need the library transformers; `pip install transformers` brings it")


class Encoder(nn.Module):
    """A transformers network as input [n, …] → features [n, width].

    Features are the network's own pooled output where pooling has no layer of its own to learn (such a layer belongs
    to the pre-training task, and many published weights lack it), else the class token, else the mean over tokens or
    places.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        pooler = getattr(model, "pooler", None)
        if isinstance(pooler, nn.Module) and any(isinstance(m, nn.Linear) for m in pooler.modules()):
            model.pooler = pooler = None
            self.pooled = False
        else:
            self.pooled = True
        self.model = model
        self.by_class_token = any(name.endswith("cls_token") for name, _ in model.named_parameters())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of a batch."""
        out = self.model(**{self.model.main_input_name: x}, return_dict=True)
        pooled = getattr(out, "pooler_output", None)
        if self.pooled and pooled is not None:
            return pooled.flatten(1)  # type: ignore[no-any-return]
        hidden: torch.Tensor = out.last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean(dim=(2, 3))
        return hidden[:, 0] if self.by_class_token else hidden.mean(dim=1)


def create(
    architecture: str,
    model_args: Mapping[str, Any],
    *,
    seed: int,
    preprocessing: Mapping[str, Any],
    files: Mapping[str, Path],
) -> nn.Module:
    """The network of a configuration with random weights. Raises SourceError for one that is not of pictures."""
    require()
    from transformers import AutoModel

    config = _config(architecture, model_args)
    with _CREATING, torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        return _checked(AutoModel.from_config(config), architecture).eval()


def published(source: Source) -> tuple[nn.Module, Mapping[str, bytes]]:
    """The network with the weights of its folder. Raises ValueError where a weight that is used is missing."""
    require()
    from transformers import AutoModel

    config = _config(source.architecture, source.model_args)
    with _CREATING, torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(0)
        model, info = AutoModel.from_pretrained(
            source.weights.parent, config=config, use_safetensors=True, local_files_only=True, trust_remote_code=False,
            dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True,
        )  # fmt: skip
    encoder = _checked(model, source.architecture)
    used = {f"model.{name}" for name in (*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"]))}
    lacking = sorted(used & encoder.state_dict().keys())
    if lacking:
        raise ValueError(f"{len(lacking)} tensors are missing or of another shape, such as {lacking[0]}")
    return encoder.eval(), {}


def _config(architecture: str, model_args: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    if found := [key for key in FORBIDDEN if model_args.get(key)]:
        raise SourceError(f"{', '.join(found)} cannot be an argument of the architecture {architecture}")
    try:
        return AutoConfig.for_model(architecture, **model_args)
    except ValueError as error:
        raise SourceError(f"this installation's transformers knows no architecture {architecture!r}") from error


def _checked(model: Any, architecture: str) -> Encoder:
    if getattr(model, "main_input_name", "") != "pixel_values":
        raise SourceError(f"the architecture {architecture} takes no pictures alone; name an image encoder")
    return Encoder(model)


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports every head that is left out; here that is the purpose."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
