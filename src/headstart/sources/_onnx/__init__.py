"""ONNX files as networks: read safely, cut to the features, made tunable by conversion where that is exact."""

from __future__ import annotations

import importlib.util

from headstart._errors import SourceError

GRAPH = "network.onnx"
"""Name of the prepared graph in the cache and in a model folder."""


def require() -> None:
    """Raises SourceError if what ONNX files need is not installed."""
    missing = [name for name in ("onnx", "onnxruntime", "onnx2torch") if importlib.util.find_spec(name) is None]
    if missing:
        raise SourceError(
            f"ONNX files need the packages {', '.join(missing)}; `pip install {' '.join(missing)}` brings them"
        )
