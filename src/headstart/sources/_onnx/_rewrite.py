"""Write operators of newer versions in the words of version 17, the newest that onnx2torch knows throughout.

``onnx.version_converter`` goes down only where it has an adapter, and stops at the first node without one; each rule
here is a few lines for one node, and a node without a rule keeps its meaning or is named as what does not convert.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto, helper

from headstart.sources._onnx._graph import Graph, Shapes, attribute, drop_attributes, set_attribute

TARGET = 17
Rule = Callable[[Graph, NodeProto, Shapes], list[NodeProto]]


def rewrite(graph: Graph, shapes: Shapes) -> None:
    """Change ``graph`` in place."""
    nodes = []
    for node in graph.nodes:
        rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        nodes += rule(graph, node, shapes) if rule else [node]
    graph.nodes = nodes
    graph.opset = min(graph.opset, TARGET)
    graph.prune()


def missing(graph: Graph) -> list[str]:
    """Operators that onnx2torch has no converter for, by name."""
    from onnx2torch.node_converters.registry import get_converter

    found = []
    for node in graph.nodes:
        try:
            get_converter(node.op_type, graph.opset if not node.domain else 1, node.domain)
        except NotImplementedError:
            found.append(f"{node.domain}.{node.op_type}".lstrip("."))
    return sorted(set(found))


def _reduce(graph: Graph, node: NodeProto, shapes: Shapes) -> list[NodeProto]:
    """The axes as an attribute again (an input since version 18; ReduceSum since 13, which is known)."""
    if graph.opset < 18 or len(node.input) < 2 or not node.input[1]:
        if graph.opset >= 18 and attribute(node, "noop_with_empty_axes", 0):
            return [helper.make_node("Identity", [node.input[0]], [node.output[0]], node.name)]
        drop_attributes(node, ["noop_with_empty_axes"])
        return [node]
    axes = graph.constants.get(node.input[1])
    if axes is None or not axes.size:
        return [node]
    set_attribute(node, "axes", [int(a) for a in axes])
    drop_attributes(node, ["noop_with_empty_axes"])
    del node.input[1:]
    return [node]


def _pad(graph: Graph, node: NodeProto, shapes: Shapes) -> list[NodeProto]:
    """Pads for all axes (since version 18 they may be for some)."""
    if len(node.input) < 4 or not node.input[3]:
        return [node]
    axes, pads = graph.constants.get(node.input[3]), graph.constants.get(node.input[1])
    if axes is None or pads is None or node.output[0] not in shapes:
        return [node]
    rank = len(shapes[node.output[0]])
    full = np.zeros(2 * rank, np.int64)
    for i, axis in enumerate(axes):
        full[int(axis) % rank], full[int(axis) % rank + rank] = pads[i], pads[i + len(axes)]
    node.input[1] = graph.constant(full, "pads")
    del node.input[3:]
    return [node]


def _split(graph: Graph, node: NodeProto, shapes: Shapes) -> list[NodeProto]:
    """Sizes of the parts (since version 18 their number may be given instead, before that nothing)."""
    if graph.opset < 13 or (len(node.input) > 1 and node.input[1]):
        return [node]
    axis = attribute(node, "axis", 0)
    sizes = [shapes[name][axis] if name in shapes else None for name in node.output]
    if None in sizes:
        return [node]
    drop_attributes(node, ["num_outputs"])
    del node.input[1:]
    node.input.append(graph.constant(np.array(sizes, np.int64), "sizes"))
    return [node]


def _reshape(graph: Graph, node: NodeProto, shapes: Shapes) -> list[NodeProto]:
    """``allowzero`` says something only about shapes that have a zero."""
    target = graph.constants.get(node.input[1]) if len(node.input) > 1 else None
    if target is not None and (not attribute(node, "allowzero", 0) or not (target == 0).any()):
        drop_attributes(node, ["allowzero"])
    return [node]


def _cast(graph: Graph, node: NodeProto, shapes: Shapes) -> list[NodeProto]:
    drop_attributes(node, ["saturate", "round_mode"])  # about 8-bit numbers only
    return [node]


def _average_pool(graph: Graph, node: NodeProto, shapes: Shapes) -> list[NodeProto]:
    if set(attribute(node, "dilations", [1])) == {1}:
        drop_attributes(node, ["dilations"])
    return [node]


def _global_max_pool(graph: Graph, node: NodeProto, shapes: Shapes) -> list[NodeProto]:
    if node.output[0] not in shapes:
        return [node]
    axes = list(range(2, len(shapes[node.output[0]])))
    return [helper.make_node("ReduceMax", node.input, node.output, node.name, axes=axes, keepdims=1)]


def _resize(graph: Graph, node: NodeProto, shapes: Shapes) -> list[NodeProto]:
    """What versions 18 and 19 added, where it is at its default."""
    for name, default in (("antialias", 0), ("keep_aspect_ratio_policy", b"stretch")):
        if attribute(node, name, default) == default:
            drop_attributes(node, [name])
    return [node]


def _gelu(graph: Graph, node: NodeProto, shapes: Shapes) -> list[NodeProto]:
    """x · ½ (1 + erf(x / √2)), or its approximation by tanh."""
    x, y = node.input[0], node.output[0]
    steps = _Steps(graph, node)
    if attribute(node, "approximate", b"none") == b"tanh":
        cubed = steps("Mul", steps("Mul", x, x), x)
        inner = steps("Mul", steps("Add", x, steps("Mul", cubed, 0.044715)), float(np.sqrt(2 / np.pi)))
        bent = steps("Tanh", inner)
    else:
        bent = steps("Erf", steps("Mul", x, float(np.sqrt(0.5))))
    half = steps("Mul", steps("Add", bent, 1.0), 0.5)
    return [*steps.nodes, helper.make_node("Mul", [x, half], [y], node.name)]


def _mish(graph: Graph, node: NodeProto, shapes: Shapes) -> list[NodeProto]:
    steps = _Steps(graph, node)
    bent = steps("Tanh", steps("Softplus", node.input[0]))
    return [*steps.nodes, helper.make_node("Mul", [node.input[0], bent], node.output, node.name)]


def _clip(graph: Graph, node: NodeProto, shapes: Shapes) -> list[NodeProto]:
    """Bounds that are computed, as a maximum and a minimum."""
    bounds = list(node.input[1:])
    if all(not b or b in graph.constants for b in bounds):
        return [node]
    x, steps = node.input[0], _Steps(graph, node)
    for kind, bound in zip(("Max", "Min"), bounds):
        x = steps(kind, x, bound) if bound else x
    return [*steps.nodes, helper.make_node("Identity", [x], node.output, node.name)]


class _Steps:
    """Collects nodes that together say what one node said; a number as input becomes a constant."""

    def __init__(self, graph: Graph, node: NodeProto) -> None:
        self._graph, self._stem = graph, node.name or node.output[0]
        self.nodes: list[NodeProto] = []

    def __call__(self, kind: str, *inputs: str | float) -> str:
        names = [i if isinstance(i, str) else self._graph.constant(np.array(i, np.float32)) for i in inputs]
        name = f"{self._stem}_step{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [name], name))
        return name


RULES: dict[str, Rule] = {
    **{f"Reduce{kind}": _reduce for kind in ("Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp")},
    "ReduceSumSquare": _reduce,
    "Pad": _pad,
    "Split": _split,
    "Reshape": _reshape,
    "Cast": _cast,
    "Clip": _clip,
    "AveragePool": _average_pool,
    "GlobalMaxPool": _global_max_pool,
    "Resize": _resize,
    "Gelu": _gelu,
    "Mish": _mish,
}
