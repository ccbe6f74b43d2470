"""Make a graph fit for batches and for cutting: any number of examples, and no shapes computed on the way.

Exporters leave two things behind that stand in the way of training. A batch size may be written into the graph; and
shapes may be computed in it, by nodes that read a tensor's shape early and use it late, so that nowhere a single tensor
crosses. Here all that depends on shapes alone is computed once, with two batch sizes; what does not change between
them is a constant. Whether the result still computes the same is not argued but measured, by the caller.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper

from headstart.sources._onnx._graph import Array, Graph, Shapes, drop_attributes, reads
from headstart.sources._onnx._session import observe

SHAPES = {"Shape", "Size"}
CHANCE = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
FLEXIBLE = (2, 3)
"""Batch sizes between which a constant does not change."""


def loosen(graph: Graph) -> None:
    """Change ``graph`` in place.

    Raises ValueError where a shape depends on the batch in a way that is not understood.
    """
    fixed = graph.batch
    known = _computed_from_shapes(graph)
    names = list(dict.fromkeys(name for node in graph.nodes for name in node.output if name))
    first = observe(graph, names, fixed or FLEXIBLE[0])
    second = first if fixed else observe(graph, names, FLEXIBLE[1])
    for name in known:
        if first[name].shape == second[name].shape and np.array_equal(first[name], second[name]):
            graph.constants[name] = first[name]
    graph.nodes = [n for n in graph.nodes if not all(o in graph.constants for o in n.output if o)]
    for node in graph.nodes:
        if node.op_type == "Reshape":
            _loosen_reshape(graph, node, first, second, bool(fixed))
        elif node.op_type == "Gather" and node.input[0] in first:
            _plain_gather(graph, node, first, second, bool(fixed))
        elif node.op_type == "Expand" and fixed:
            _loosen_expand(graph, node, fixed)
    graph.batch = 0
    _repeat_constants(graph, first)
    graph.prune()


def shapes_of(graph: Graph) -> Shapes:
    """The shape of every floating-point tensor, None where it depends on the batch."""
    names = [name for node in graph.nodes for name in node.output if name]
    one, two = (observe(graph, names, n) for n in FLEXIBLE)
    return {
        name: tuple(a if a == b else None for a, b in zip(one[name].shape, two[name].shape))
        for name in names
        if one[name].dtype.kind == "f" and one[name].ndim == two[name].ndim
    }


def _computed_from_shapes(graph: Graph) -> set[str]:
    """Tensors that depend on constants and on shapes of other tensors, but not on anybody's values."""
    known: set[str] = set()
    for node in graph.nodes:
        inputs = list(reads(node))
        free = all(name in known or name in graph.constants for name in inputs) and node.op_type not in CHANCE
        if node.op_type in SHAPES or free:
            known |= {name for name in node.output if name}
    return known - {graph.output}


def _loosen_reshape(
    graph: Graph, node: NodeProto, first: dict[str, Array], second: dict[str, Array], fixed: bool
) -> None:
    """Write the new shape as constants with -1 where it depends on the batch."""
    name, shape = node.input[1], first[node.output[0]].shape
    if fixed:
        if node.input[0] in graph.constants or len(shape) == 0:
            return
        target = [-1, *shape[1:]]
    elif name in graph.constants:
        return
    else:
        one, two = first[name], second[name]
        moving = [i for i in range(len(one)) if one[i] != two[i]]
        if len(moving) != 1:
            raise ValueError(f"the shape of {node.output[0]!r} depends on the batch in {len(moving)} places")
        target = [-1 if i == moving[0] else size for i, size in enumerate(shape)]
    drop_attributes(node, ["allowzero"])
    node.input[1] = graph.constant(np.array(target, np.int64), "shape")


def _loosen_expand(graph: Graph, node: NodeProto, fixed: int) -> None:
    target = graph.constants.get(node.input[1])
    if target is not None and len(target) and target[0] == fixed:
        node.input[1] = graph.constant(np.array([1, *target[1:]], np.int64), "shape")


def _plain_gather(
    graph: Graph, node: NodeProto, first: dict[str, Array], second: dict[str, Array], fixed: bool
) -> None:
    """Reading a flat tensor from its first value to its last (torch's ``as_strided``) is a change of shape."""
    data, places = node.input
    if first[data].ndim != 1 or (places in graph.constants and not fixed):
        return
    read = [graph.constants[places]] * 2 if places in graph.constants else [first[places], second[places]]
    if all(np.array_equal(r.ravel(), np.arange(len(seen[data]))) for r, seen in zip(read, (first, second))):
        target = np.array([-1, *read[0].shape[1:]], np.int64)
        reshape = helper.make_node("Reshape", [data, graph.constant(target, "shape")], node.output, node.name)
        node.CopyFrom(reshape)


def _repeat_constants(graph: Graph, seen: dict[str, Array]) -> None:
    """Where a constant (a class token) stands beside the examples' own values, repeat it for each of them there."""
    makers, added = graph.makers(), []
    for node in graph.nodes:
        if node.op_type != "Concat":
            continue
        values = {i: _constant_behind(graph, makers, name) for i, name in enumerate(node.input)}
        lone = {i: v for i, v in values.items() if v is not None and v.ndim > 1 and len(v) == 1}
        beside = next((n for i, n in enumerate(node.input) if values[i] is None), None)
        axis = helper.get_node_attr_value(node, "axis") % seen[node.output[0]].ndim
        if not lone or beside is None or axis == 0:
            continue
        for i, value in lone.items():
            new = _repeat(graph, value, beside)
            node.input[i] = new[-1].output[0]
            added.append((node, new))
    for node, new in added:
        place = next(i for i, n in enumerate(graph.nodes) if n is node)
        graph.nodes[place:place] = new


def _constant_behind(graph: Graph, makers: dict[str, NodeProto], name: str) -> Array | None:
    """The constant that a tensor is, or is a repetition of."""
    if name in graph.constants:
        return graph.constants[name]
    node = makers.get(name)
    return graph.constants.get(node.input[0]) if node is not None and node.op_type == "Expand" else None


def _repeat(graph: Graph, value: Array, beside: str) -> list[NodeProto]:
    """Nodes that repeat ``value`` [1, …] as often as ``beside`` has examples."""
    stem = graph.fresh("repeat")
    shape, count, target, result = (f"{stem}_{part}" for part in ("shape", "count", "target", "result"))
    begin, end = (graph.constant(np.array([i], np.int64), f"{stem}_place") for i in (0, 1))
    rest = graph.constant(np.array(value.shape[1:], np.int64), f"{stem}_rest")
    whole = graph.constant(value, f"{stem}_value")
    return [
        helper.make_node("Shape", [beside], [shape], shape),
        helper.make_node("Slice", [shape, begin, end], [count], count),
        helper.make_node("Concat", [count, rest], [target], target, axis=0),
        helper.make_node("Expand", [whole, target], [result], result),
    ]
