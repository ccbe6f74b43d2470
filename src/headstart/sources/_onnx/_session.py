"""onnxruntime: what a graph really gives, and a network that stays in it, frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto, TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as _state
from torch import nn

from headstart.sources._onnx._graph import Array, Graph

ERRORS: tuple[type[Exception], ...] = tuple(
    found for name in dir(_state) if isinstance(found := getattr(_state, name), type) and issubclass(found, Exception)
)
"""What onnxruntime raises; they have no class of their own in common."""


def session(model: ModelProto | bytes) -> Any:
    """onnxruntime on the CPU with one thread, so that many threads can each run it side by side."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors come as exceptions
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


LOUDNESS = np.array([1.0, 1e-3, 10.0], np.float32)


def example(graph: Graph, n: int, seed: int = 0) -> Array:
    """Random input [n, …] of the graph's shape and type. The rows are of unequal strength, so that a network in which
    one example changes the features of another is found out."""
    values = np.random.default_rng(seed).standard_normal((n, *graph.shape), np.float32)
    values *= np.resize(LOUDNESS, n).reshape(n, *[1] * len(graph.shape))
    return values.astype(helper.tensor_dtype_to_np_dtype(graph.element))


def observe(graph: Graph, names: Sequence[str], n: int) -> dict[str, Array]:
    """The values of tensors inside the graph for ``n`` examples of random input."""
    found = session(graph.model(names)).run(list(names), {graph.input: example(graph, n)})
    return dict(zip(names, found))


class Frozen(nn.Module):
    """A graph in onnxruntime as a module without parameters: fp32 [n, …] in, fp32 out, whatever is computed around it.

    ``batch``: examples that a pass takes (0: any number).
    """

    only_fp32 = True
    mixes = False
    """Whether examples change each other's features when they go through together."""

    def __init__(self, model: bytes, batch: int, about: Mapping[str, Any]) -> None:
        super().__init__()
        self._session = session(model)
        wanted = self._session.get_inputs()[0]
        self._input, self._type = wanted.name, _TYPES[wanted.type]
        self.batch = batch
        self.about = dict(about)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of a batch, on the same device; nothing flows back."""
        rows = x.detach().float().cpu().contiguous().numpy().astype(self._type)
        parts = [self._run(part) for part in _parts(rows, self.batch)]
        return torch.from_numpy(np.concatenate(parts)[: len(rows)]).to(x.device)

    def _run(self, rows: Array) -> Array:
        (found,) = self._session.run(None, {self._input: rows})
        return np.asarray(found, np.float32)


_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
ELEMENTS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
"""Number types that a network's input may have."""


def _parts(rows: Array, batch: int) -> list[Array]:
    if not batch:
        return [rows]
    missing = -len(rows) % batch
    padded = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows
    return [padded[i : i + batch] for i in range(0, len(padded), batch)]
