"""A network without its output layer, and its stages: run it whole, to a cut, from a cut, or pooled at every depth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from headstart._errors import SourceError
from headstart._runtime import reuse_memory
from headstart.sources._cut import Cut, capture, only_tensor


class Backbone:
    """A network [n, C, H, W] (or [n, …], see ``example_input``) → features [n, width], with named stages.

    Cut ``k`` lies after the first ``k`` stages: 0 freezes nothing, ``len(stages)`` freezes every stage.
    """

    def __init__(self, network: nn.Module, preprocessing: Mapping[str, Any]) -> None:
        self.network = network
        self.preprocessing = preprocessing
        self.stages = _stages(network, self.example_input(1))
        self.dtype = torch.float32
        self._cuts: dict[int, Cut] = {}

    def example_input(self, n: int = 2) -> torch.Tensor:
        """Random input of the right shape, fixed: that of a picture, or what ``input_shape`` says of one example."""
        generator = torch.Generator().manual_seed(0)
        shape = self.preprocessing.get("input_shape")
        if shape is None:
            shape = (int(self.preprocessing.get("channels", 3)), *self.preprocessing["size"])
        return torch.randn((n, *map(int, shape)), generator=generator)

    def place(self, where: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """Move the network, in the memory layout that convolutions are fastest in. Afterwards its input is to have
        the type ``self.dtype``: the one asked for, or fp32 for a network that only computes in fp32."""
        if where.type == "cpu":
            reuse_memory()
        if getattr(self.network, "only_fp32", False):
            dtype = torch.float32
        self.dtype = dtype
        self.network.to(where, dtype)
        self.network.to(memory_format=torch.channels_last)

    def cut(self, k: int) -> Cut:
        """The network split after ``k`` stages, checked: suffix(prefix(x)) equals the whole network.

        Raises SourceError when this network cannot be split there.
        """
        if not self.stages:
            raise SourceError("this network has no stages to cut between")
        if not 1 <= k <= len(self.stages):
            raise SourceError(f"a cut lies between 1 and {len(self.stages)} for this network, not at {k}")
        if k not in self._cuts:
            self._cuts[k] = Cut.at(self.network, self.stages[k - 1][0], self.example_input())
        return self._cuts[k]

    @contextmanager
    def depths(self) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
        """Within it, a function x → [n, sum of widths]: every stage's output averaged over space or tokens,
        then the network's own output, side by side (in the order of ``facts()``). Safe to call from threads."""
        with ExitStack() as stack:
            taps = [stack.enter_context(capture(self.network.get_submodule(name))) for name, _ in self.stages]
            widths = [width for _, width in self.stages]

            def run(x: torch.Tensor) -> torch.Tensor:
                out = self.network(x)
                parts = [pool(tap.take(), width) for tap, width in zip(taps, widths)]
                return torch.cat([*parts, out.flatten(1)], dim=1)

            yield run

    def facts(self) -> dict[str, Any]:
        """What there is to know without running torch again: stages with their widths, output width, sizes."""
        with torch.inference_mode():
            width = int(self.network(self.example_input()).flatten(1).shape[1])
        return {
            "stages": [{"module": name, "width": w} for name, w in self.stages],
            "width": width,
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "trainable": sum(p.numel() for p in self.network.parameters()),
            **getattr(self.network, "about", {}),
        }


def pool(activation: torch.Tensor, width: int) -> torch.Tensor:
    """Average an activation over everything but the batch and its channels (the axis as long as ``width``)."""
    axes = [1, activation.ndim - 1] if activation.ndim == 4 else [activation.ndim - 1, 1]
    channel = next((a for a in axes if activation.shape[a] == width), axes[0])
    others = [a for a in range(1, activation.ndim) if a != channel]
    return activation.mean(dim=others) if others else activation


def _stages(network: nn.Module, example: torch.Tensor) -> list[tuple[str, int]]:
    """Stage modules in order with their widths: timm's ``feature_info``, else the list with most parameters (unless
    its builder described the network in ``about`` and named no stages).

    Only modules that really run and give one tensor count; a network without any has no cuts.
    """
    info = getattr(network, "feature_info", None)
    entries = [entry for entry in getattr(info, "info", info) or [] if isinstance(entry, dict)]
    widths: dict[str, int] = {entry["module"]: int(entry["num_chs"]) for entry in entries}
    names = list(widths) or ([] if hasattr(network, "about") else _longest_list(network))
    known = dict(network.named_modules())
    found: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensor = only_tensor(output)
            if tensor is not None and name not in found:
                found[name] = widths.get(name) or int(tensor.shape[1 if tensor.ndim == 4 else -1])

        return hook

    handles = [known[n].register_forward_hook(note(n)) for n in names if n in known]
    try:
        with torch.inference_mode():
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return [(name, found[name]) for name in names if name in found]


def _longest_list(network: nn.Module) -> list[str]:
    lists = {n: m for n, m in network.named_modules() if n and isinstance(m, (nn.ModuleList, nn.Sequential))}
    if not lists:
        return []
    best = max(lists, key=lambda n: sum(p.numel() for p in lists[n].parameters()))
    return [f"{best}.{i}" for i in range(len(lists[best]))]
