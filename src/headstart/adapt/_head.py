"""Heads: the new output layer or layers, as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.modalities import Array


@dataclass(frozen=True, slots=True)
class Head:
    """Dense layers with ReLU between them, on the columns ``first`` to ``last`` of the pooled features of all depths.

    ``layers`` are (weight [out, in], bias [out]) pairs; the last one gives the logits.
    """

    layers: Sequence[tuple[Array, Array]]
    first: int
    last: int

    def logits(self, depths: Array) -> Array:
        """Pooled features of all depths [n, d] → logits [n, k], float32."""
        x = np.asarray(depths[:, self.first : self.last], np.float32)
        for i, (weight, bias) in enumerate(self.layers):
            x = (np.maximum(x, 0) if i else x) @ weight.T + bias
        return x

    def tensors(self) -> dict[str, Array]:
        """Named arrays for saving."""
        named: dict[str, Array] = {}
        for i, (weight, bias) in enumerate(self.layers):
            named |= {f"head.{i}.weight": np.ascontiguousarray(weight, np.float32)}
            named |= {f"head.{i}.bias": np.ascontiguousarray(bias, np.float32)}
        return named

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Array], about: Mapping[str, Any]) -> Head:
        """The inverse of ``tensors`` and ``about``. Raises KeyError for a missing layer."""
        layers = [(tensors[f"head.{i}.weight"], tensors[f"head.{i}.bias"]) for i in range(int(about["layers"]))]
        return cls(layers, int(about["first"]), int(about["last"]))

    def about(self) -> dict[str, int]:
        """What ``from_tensors`` needs besides the arrays."""
        return {"layers": len(self.layers), "first": self.first, "last": self.last}
