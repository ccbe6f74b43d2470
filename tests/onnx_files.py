"""Small ONNX files: exported networks, and graphs written node by node."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from pictures import with_statistics

PIXELS = {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear", "crop_pct": 1.0}


def small_resnet(classes: int = 7) -> Any:
    """A residual network of 54,000 random values, norms with statistics of their own."""
    import timm
    import torch

    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=classes, channels=[8, 16, 16, 32]).eval()
    return _with_statistics(network)


def small_vit(classes: int = 7) -> Any:
    """Four blocks of a vision transformer with a class token, 32 pixels."""
    import timm
    import torch

    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2}
    network = timm.create_model("vit_tiny_patch16_224", num_classes=classes, **sizes).eval()
    for block in network.blocks:
        block.attn.fused_attn = False  # the exporter at version 13 knows no fused attention
    with torch.no_grad():
        network.cls_token.normal_()
        network.pos_embed.normal_(0, 0.1)
    return network


def _with_statistics(network: Any) -> Any:
    import torch

    generator = with_statistics(network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "bn" in name and parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network


def export(network: Any, path: Path, *, opset: int = 13, free: bool = True, folded: bool = True) -> Path:
    """By torch's older exporter; ``free`` leaves the batch open, ``folded`` merges norms into convolutions."""
    import torch

    axes = {"dynamic_axes": {"picture": {0: "n"}, "scores": {0: "n"}}} if free else {}
    training = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.randn(2 if free else 1, 3, 32, 32),), path, dynamo=False, opset_version=opset,
            input_names=["picture"], output_names=["scores"], training=training, do_constant_folding=folded, **axes,
        )  # fmt: skip
    return path


def describe(path: Path, **entries: Any) -> None:
    """The JSON file beside an ONNX file."""
    path.with_suffix(".json").write_text(json.dumps({"preprocessing": PIXELS} | entries), encoding="utf-8")


Node = tuple[str, Sequence[str], Sequence[str], Mapping[str, Any]]


def write(
    path: Path,
    nodes: Sequence[Node],
    constants: Mapping[str, Any],
    *,
    shape: Sequence[Any] = ("n", 3, 32, 32),
    outputs: Sequence[str] = ("y",),
    opset: int = 18,
    kind: int = TensorProto.FLOAT,
    more_inputs: Sequence[str] = (),
) -> Path:
    """A graph from (operator, inputs, outputs, attributes) tuples; its input is ``x``."""
    made = []
    for i, (operator, inputs, gives, attributes) in enumerate(nodes):
        options = {"name": f"{operator}_{i}", **attributes}
        made.append(helper.make_node(operator, inputs, gives, **options))
    graph = helper.make_graph(
        made,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name in ("x", *more_inputs)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    domains = sorted({n.domain for n in made if n.domain})
    sets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    path.write_bytes(helper.make_model(graph, opset_imports=sets, ir_version=9).SerializeToString())
    return path


def weights(*shape: int, seed: int = 0) -> Any:
    """Random float32 of moderate size."""
    random = np.random.default_rng(seed)
    return (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:], initial=1))).astype(np.float32)


def convolution(
    path: Path, *middle: Node, last: str = "a", constants: Mapping[str, Any] | None = None, **more: Any
) -> Path:
    """Convolution → ``middle`` (from tensor a to tensor ``last``) → mean over places, the output y [n, 8]."""
    nodes: list[Node] = [
        ("Conv", ["x", "w", "b"], ["a"], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        *middle,
        ("GlobalAveragePool", [last], ["g"], {}),
        ("Flatten", ["g"], ["y"], {}),
    ]
    values = {"w": weights(8, 3, 3, 3), "b": weights(8, seed=1), **(constants or {})}
    return write(path, nodes, values, **more)


def stays(path: Path) -> Path:
    """A network that onnx2torch does not know all of."""
    return convolution(path, ("ThresholdedRelu", ["a"], ["t"], {"alpha": 0.1}), last="t")
