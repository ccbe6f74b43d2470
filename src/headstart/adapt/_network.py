"""A backbone with a new head, split at the cut: what is trained, what is frozen, and how a batch runs through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from headstart._runtime import compute_dtype, device
from headstart.adapt._head import Head
from headstart.adapt._job import Job
from headstart.adapt._probe import fit_probe
from headstart.adapt._tuned import Tuning
from headstart.features import INPUT
from headstart.modalities import Array
from headstart.sources import Backbone

SCRATCH_MOMENTUM = 0.1
"""Of norm statistics that start from nothing. Architectures made for millions of steps set 0.01 or less, with which a
short training is judged by statistics that have hardly left their start (a control at the level of chance)."""


@dataclass(slots=True)
class Network:
    """A backbone with a new head, split at the cut: the trainable part as a function of what is cached."""

    backbone: Backbone
    head: nn.Linear
    mean: torch.Tensor
    scale: torch.Tensor
    names: list[str]
    """Trainable parameters of the backbone."""
    job: Job
    tuning: Tuning

    def parameters(self) -> dict[str, nn.Parameter]:
        """Everything that is trained, by name."""
        known = dict(self.backbone.network.named_parameters())
        return {n: known[n] for n in self.names} | {f"head.{n}": p for n, p in self.head.named_parameters()}

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of everything that training changes (with ``scratch`` also the norms' statistics)."""
        tensors: dict[str, torch.Tensor] = {n: p.detach().cpu().clone() for n, p in self.parameters().items()}
        if not self.tuning.pretrained:
            tensors |= {n: b.detach().cpu().clone() for n, b in self.backbone.network.named_buffers()}
        return tensors

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put a state back."""
        known = {**dict(self.backbone.network.named_buffers()), **self.parameters()}
        with torch.no_grad():
            for name, tensor in state.items():
                known[name].copy_(tensor)

    @contextmanager
    def _depthwise_in_fp32(self) -> Iterator[None]:
        """On the CPU the backward pass of depthwise convolutions is two to five times slower in bf16 than in fp32
        (measured with oneDNN on AVX512-BF16), while all the rest gains: so these alone are left out of autocast."""
        convolutions = [
            m
            for m in self.backbone.network.modules()
            if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 and "forward" not in m.__dict__
        ]

        def outside(convolution: nn.Conv2d) -> Callable[[torch.Tensor], torch.Tensor]:
            inside = convolution.forward

            def forward(x: torch.Tensor) -> torch.Tensor:
                with torch.autocast(device().type, enabled=False):
                    return inside(x.float())

            return forward

        for convolution in convolutions:
            convolution.forward = outside(convolution)  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            for convolution in convolutions:
                del convolution.forward

    @contextmanager
    def forward(self) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
        """Within it, a function cached batch → logits."""
        dtype, where, cut = compute_dtype(), device(), self.tuning.cut
        with ExitStack() as stack:
            if where.type == "cpu" and dtype != torch.float32:
                stack.enter_context(self._depthwise_in_fp32())
            if not cut:
                run: Callable[[torch.Tensor], torch.Tensor] = self.backbone.network
            elif self.tuning.cached:
                run = stack.enter_context(self.backbone.cut(cut).suffix())
            else:
                run = self._recomputing(cut)

            def logits(batch: torch.Tensor) -> torch.Tensor:
                x = batch.to(where)
                if x.dtype == torch.uint8:
                    x = self.job.modality.to_input(x, self.job.source.preprocessing)
                elif x.dtype == torch.int16:
                    x = x.view(torch.bfloat16)
                with torch.autocast(where.type, dtype, enabled=dtype != torch.float32):
                    out = run(x.float() if dtype == torch.float32 else x)
                return self.head((out.flatten(1).float() - self.mean) / self.scale)  # type: ignore[no-any-return]

            yield logits

    def _recomputing(self, cut: int) -> Callable[[torch.Tensor], torch.Tensor]:
        split_at = self.backbone.cut(cut)

        def run(x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad(), split_at.prefix() as prefix:
                activation = prefix(x)
            with split_at.suffix() as suffix:
                return suffix(activation)

        return run

    def as_head(self) -> Head:
        """The head with the standardisation folded in."""
        weight = (self.head.weight / self.scale).detach().cpu().double()
        bias = self.head.bias.detach().cpu().double() - weight @ self.mean.cpu().double()
        first, last = self.job.columns(None)
        return Head([(weight.float().numpy(), bias.float().numpy())], first, last)


def build(job: Job, tuning: Tuning, train: Array) -> Network:
    """The network before the first step: pre-trained with the probe as its head, or random for ``scratch``."""
    first, last = job.columns(None)
    backbone = job.source.backbone() if tuning.pretrained else job.source.scratch(job.seed)
    width = last - first
    head = nn.Linear(width, job.n_classes, device="meta").to_empty(device="cpu")  # filled below, nothing drawn
    mean, scale = torch.zeros(width), torch.ones(width)
    if tuning.pretrained:
        features, labels = job.pooled.take(train)[:, first:last], job.labels[train]
        probe = fit_probe(features, labels, job.n_classes, job.blocks[train], seed=job.seed)
        mean = torch.from_numpy(features.mean(axis=0))
        deviation = torch.from_numpy(features.std(axis=0))
        scale = torch.where(deviation > 1e-6, deviation, 1.0)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(probe.weight) * scale)
            head.bias.copy_(torch.from_numpy(probe.bias + probe.weight @ mean.numpy()))
    else:
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    names = freeze(backbone, tuning)
    where = device()
    backbone.place(where)
    return Network(backbone, head.to(where), mean.to(where), scale.to(where), names, job, tuning)


def set_mode(network: nn.Module, *, training: bool) -> None:
    """Training or evaluation mode for all but dropout, whose random numbers would depend on what else runs."""
    network.train(training)
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()


def freeze(backbone: Backbone, tuning: Tuning) -> list[str]:
    """Freeze all that the tuning leaves alone: gradients, mode and buffers. Returns the trainable names.

    Norm statistics stay in evaluation mode unless training starts from random weights; dropout always does.
    """
    network = backbone.network
    names = backbone.cut(tuning.cut).trainable() if tuning.cut else [n for n, _ in network.named_parameters()]
    if tuning.only_vectors:
        vectors = {n for n, p in network.named_parameters() if p.ndim <= 1}
        names = [n for n in names if n in vectors]
    chosen = set(names)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in chosen)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not tuning.pretrained:
            module.momentum = SCRATCH_MOMENTUM
    set_mode(network, training=not tuning.pretrained)
    return names


def predict(net: Network, rows: Array, batch: int = 32) -> Array:
    """Logits [len(rows), k] of the plain view from what is cached at the network's cut, in evaluation mode."""
    cut = net.tuning.cut if net.tuning.cached else 0
    features = net.job.inputs(f"cut:{cut}" if cut else INPUT)
    maps, places = features.mapped(rows)
    out = np.zeros((len(rows), net.job.n_classes), np.float32)
    with net.forward() as forward, torch.inference_mode():
        for i in range(0, len(rows), batch):
            out[i : i + batch] = forward(torch.from_numpy(maps[0][places[0][i : i + batch]])).float().cpu().numpy()
    return out
