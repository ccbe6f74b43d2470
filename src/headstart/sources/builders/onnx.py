"""ONNX files as networks: tunable where they convert to torch exactly, else frozen in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from headstart._errors import SourceError
from headstart.sources._onnx import GRAPH, require
from headstart.sources._source import Source

VERSION = "1"


def create(
    architecture: str,
    model_args: Mapping[str, Any],
    *,
    seed: int,
    preprocessing: Mapping[str, Any],
    files: Mapping[str, Path],
) -> nn.Module:
    """The network of a prepared graph: random weights, fixed by ``seed``; one that stays frozen has its own."""
    require()
    from headstart.sources._onnx._convert import start_afresh
    from headstart.sources._onnx._prepare import unpacked

    if GRAPH not in files:
        raise SourceError(f"the graph of {architecture} is missing: there is no {GRAPH}")
    network = unpacked(files[GRAPH])
    start_afresh(network, seed)
    return network


def published(source: Source) -> tuple[nn.Module, Mapping[str, bytes]]:
    """The network with the file's own weights: converted and checked against onnxruntime, or frozen there."""
    require()
    from headstart.sources._onnx._prepare import prepare

    network, packed = prepare(source.weights, source.model_args)
    return network, {GRAPH: packed}
