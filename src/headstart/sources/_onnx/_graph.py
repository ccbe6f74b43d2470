"""A graph of one input and one output that can be worked on: constants as arrays, nodes as a list in order."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from headstart.sources._onnx._file import subgraphs

Array = npt.NDArray[Any]
Shapes = Mapping[str, tuple[int | None, ...]]
"""Of floating-point tensors; None where a size depends on the batch."""
BATCH = "batch"


@dataclass(slots=True)
class Graph:
    """What lies between the network's input and its features. ``nodes`` are in an order in which they can run."""

    nodes: list[NodeProto]
    constants: dict[str, Array]
    input: str
    element: int
    """Number type of the input, as ONNX counts them."""
    shape: tuple[int, ...]
    """Of one example."""
    batch: int
    """Examples that a pass takes; 0 where any number will do."""
    output: str
    opset: int
    domains: dict[str, int]
    """Versions of the other operator sets."""
    ir: int

    def model(self, outputs: Sequence[str] = ()) -> ModelProto:
        """As an ONNX model that gives ``outputs`` (default: the graph's own)."""
        shape = [self.batch or BATCH, *self.shape]
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info(self.input, self.element, shape)],
            [ValueInfoProto(name=name) for name in outputs or (self.output,)],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        sets = [helper.make_opsetid(name, version) for name, version in {"": self.opset, **self.domains}.items()]
        return helper.make_model(graph, opset_imports=sets, ir_version=self.ir)

    def copy(self) -> Graph:
        """One whose nodes can be changed; the constants' arrays are shared."""
        other = copy.copy(self)
        other.nodes = []
        for node in self.nodes:
            twin = NodeProto()
            twin.CopyFrom(node)
            other.nodes.append(twin)
        other.constants, other.domains = dict(self.constants), dict(self.domains)
        return other

    def prune(self) -> None:
        """Drop every node and constant that the output does not need."""
        wanted, kept = {self.output}, []
        for node in reversed(self.nodes):
            if wanted & set(node.output):
                kept.append(node)
                wanted |= set(reads(node))
        self.nodes = kept[::-1]
        self.constants = {name: array for name, array in self.constants.items() if name in wanted}

    def makers(self) -> dict[str, NodeProto]:
        """Which node makes a tensor."""
        return {name: node for node in self.nodes for name in node.output if name}

    def users(self) -> dict[str, list[NodeProto]]:
        """Which nodes read a tensor."""
        found: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(reads(node)):
                found.setdefault(name, []).append(node)
        return found

    def rename(self, old: str, new: str) -> None:
        """Have everything that reads tensor ``old`` read ``new`` instead."""
        for node in self.nodes:
            _rename_in(node, old, new)
        if self.output == old:
            self.output = new

    def fresh(self, hint: str) -> str:
        """A name that no tensor has yet."""
        taken = {self.input, *self.constants, *(name for node in self.nodes for name in node.output)}
        number = 0
        while f"{hint}_{number}" in taken:
            number += 1
        return f"{hint}_{number}"

    def constant(self, array: Array, hint: str = "constant") -> str:
        """Add a constant; returns its name."""
        name = self.fresh(hint)
        self.constants[name] = array
        return name


def reads(node: NodeProto) -> Iterator[str]:
    """The tensors that a node reads, those inside its branches included."""
    yield from (name for name in node.input if name)
    for inner in subgraphs(node):
        made = {name for n in inner.node for name in n.output} | {i.name for i in inner.initializer}
        for node_inside in inner.node:
            yield from (name for name in reads(node_inside) if name not in made)
        yield from (o.name for o in inner.output if o.name not in made)


def _rename_in(node: NodeProto, old: str, new: str) -> None:
    for i, name in enumerate(node.input):
        if name == old:
            node.input[i] = new
    for inner in subgraphs(node):
        for node_inside in inner.node:
            _rename_in(node_inside, old, new)
        for output in inner.output:
            if output.name == old:
                output.name = new


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def drop_attributes(node: NodeProto, names: Iterable[str]) -> None:
    """Remove attributes."""
    kept = [a for a in node.attribute if a.name not in set(names)]
    del node.attribute[:]
    node.attribute.extend(kept)


def set_attribute(node: NodeProto, name: str, value: Any) -> None:
    """Give a node an attribute, replacing one of that name."""
    drop_attributes(node, [name])
    node.attribute.append(helper.make_attribute(name, value))


def inline_constants(graph: Graph) -> None:
    """Constant nodes become constants; Identity and inference-time Dropout go."""
    kept = []
    aliases: dict[str, str] = {}
    for node in graph.nodes:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            graph.constants[node.output[0]] = _value(node)
        elif _does_nothing(node) and node.output[0] != graph.output:
            aliases[node.output[0]] = aliases.get(node.input[0], node.input[0])
        else:
            kept.append(node)
    graph.nodes = kept
    _follow(graph, aliases)


def _follow(graph: Graph, aliases: dict[str, str]) -> None:
    for node in graph.nodes:
        for name in dict.fromkeys(reads(node)):
            if name in aliases:
                _rename_in(node, name, aliases[name])


def _does_nothing(node: NodeProto) -> bool:
    return node.op_type == "Identity" or (node.op_type == "Dropout" and not any(node.output[1:]) and _is_off(node))


def _is_off(dropout: NodeProto) -> bool:
    return len(dropout.input) < 3 or not dropout.input[2]  # training_mode is an input since version 12


def _value(node: NodeProto) -> Array:
    (found,) = [a for a in node.attribute if a.name.startswith(("value", "sparse_value"))]
    value = helper.get_attribute_value(found)
    if isinstance(value, TensorProto):
        return np.asarray(numpy_helper.to_array(value))
    if found.name in ("value_int", "value_ints"):
        return np.array(value, np.int64)
    if found.name in ("value_float", "value_floats"):
        return np.array(value, np.float32)
    raise ValueError(f"a constant of kind {found.name}")


CHANNELS_FIRST = {
    "Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "MaxPool", "AveragePool",
    "GlobalAveragePool", "GlobalMaxPool", "Resize",
}  # fmt: skip
KEEPS_AXES = {
    "Add", "Sub", "Mul", "Div", "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid",
    "Elu", "Erf", "Max", "Min", "Pow", "Pad", "Concat", "Softplus", "Cast", "ReduceMean",
}  # fmt: skip


def channel_axis(graph: Graph, name: str, shape: Sequence[int | None]) -> int:
    """Which axis of the activation ``name`` [n, …] holds the channels: the first after a convolution or its like, the
    last after a dense layer or a norm over tokens; where the graph does not say, the last for tokens, and for pictures
    the one that is no side."""
    if len(shape) < 3:
        return 1
    makers = graph.makers()
    node = makers.get(name)
    while node is not None and node.op_type in KEEPS_AXES:
        node = next((makers[i] for i in node.input if i in makers), None)
    if node is not None and node.op_type in CHANNELS_FIRST:
        return 1
    if node is not None and node.op_type in ("LayerNormalization", "MatMul"):
        return len(shape) - 1
    if len(shape) == 4:
        return 3 if shape[1] == shape[2] != shape[3] else 1
    return 2 if len(shape) == 3 and shape[2] != 1 else 1


def count_uses(graph: Graph) -> Counter[str]:
    """How many nodes read each tensor; the output counts once more."""
    found = Counter(name for node in graph.nodes for name in dict.fromkeys(reads(node)))
    found[graph.output] += 1
    return found
