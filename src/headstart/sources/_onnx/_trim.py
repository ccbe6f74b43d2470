"""From a whole ONNX file to the part between the prepared input and the features, unchanged in what it computes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from headstart._errors import SourceError
from headstart.sources._onnx._graph import Graph, attribute, channel_axis, inline_constants
from headstart.sources._onnx._session import ELEMENTS, observe

PASSES_SCORES_ON = {
    "Softmax", "LogSoftmax", "Sigmoid", "Identity", "Dropout", "Cast", "Reshape", "Flatten", "Squeeze", "Clip",
}  # fmt: skip
"""What may stand between the layer that gives the class scores and the network's output."""


@dataclass(frozen=True, slots=True)
class Input:
    """What a network takes. ``dims`` are those of one pass, the first being the batch; None where any will do."""

    name: str
    dims: tuple[int | None, ...]
    element: int

    def words(self) -> str:
        """For messages: [any, 3, 224, 224]."""
        return "[" + ", ".join("any" if d is None else str(d) for d in self.dims) + "]"


def input_of(model: ModelProto, place: object, wanted: str | None = None) -> Input:
    """The one input. Raises SourceError if there are several, or none that is called ``wanted``."""
    given = {tensor.name for tensor in model.graph.initializer}
    found = [_input(value) for value in model.graph.input if value.name not in given]
    names = ", ".join(i.name for i in found)
    if wanted is not None and wanted not in [i.name for i in found]:
        raise SourceError(f"{place} has no input {wanted!r}; it has: {names}")
    if len(found) != 1:
        raise SourceError(f"{place} takes {len(found)} inputs ({names}); a source takes exactly one")
    if found[0].element not in ELEMENTS:
        kind = TensorProto.DataType.Name(found[0].element)
        raise SourceError(f"{place} takes {kind} values as its input {names}; a source takes floating-point numbers")
    if len(found[0].dims) < 2:
        raise SourceError(f"{place} takes an input {found[0].words()} without a batch axis and one of values")
    return found[0]


def _input(value: ValueInfoProto) -> Input:
    kind = value.type.tensor_type
    dims = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim)
    return Input(value.name, dims, kind.elem_type)


def trim(model: ModelProto, args: Mapping[str, Any], place: object) -> tuple[Graph, list[str]]:
    """The graph from the prepared input to the features, and what there is to say about it.

    ``args``: ``input_shape`` of one example (images: [C, H, W], whatever layout the network has), and perhaps
    ``input`` and ``output``, the names that the user gave. The graph's nodes and tensors keep their names.
    """
    taken = input_of(model, place, args.get("input"))
    output, notes = _output(model, args.get("output"), place)
    opsets = {o.domain if o.domain != "ai.onnx" else "": o.version for o in model.opset_import}
    shape = tuple(int(v) for v in args["input_shape"])
    graph = Graph(
        nodes=list(model.graph.node),
        constants={t.name: numpy_helper.to_array(t) for t in model.graph.initializer},
        input=taken.name,
        element=taken.element,
        shape=shape,
        batch=taken.dims[0] or 0,
        output=output,
        opset=opsets.pop("", 1),
        domains=opsets,
        ir=max(model.ir_version, 4),
    )
    graph = graph.copy()
    inline_constants(graph)
    graph.prune()
    _adapt_input(graph, taken, place)
    notes += _flatten(graph)
    return graph, notes


def _output(model: ModelProto, wanted: str | None, place: object) -> tuple[str, list[str]]:
    """The tensor that is the feature: as named, else what the layer of class scores takes, else the only output."""
    outputs = [value.name for value in model.graph.output]
    if wanted is not None:
        names = {name for node in model.graph.node for name in node.output}
        if wanted not in names:
            raise SourceError(f"{place} has no output {wanted!r}; its outputs are {', '.join(outputs)}")
        return wanted, []
    makers = {name: node for node in model.graph.node for name in node.output}
    weights = {t.name: t.dims for t in model.graph.initializer} | {
        n.output[0]: attribute(n, "value").dims
        for n in model.graph.node
        if n.op_type == "Constant" and isinstance(attribute(n, "value"), TensorProto)
    }
    before = _before_scores(outputs[0], makers, weights)
    if before is not None and before in makers:
        return before, [f"its features are {before!r}, which its layer of class scores takes"]
    if len(outputs) == 1:
        return outputs[0], [f"its features are its only output, {outputs[0]!r}"]
    raise SourceError(
        f"{place} has {len(outputs)} outputs ({', '.join(outputs)}); name the one that is the feature in a JSON file "
        'beside it: {"output": "…"}'
    )


def _before_scores(output: str, makers: Mapping[str, NodeProto], weights: Mapping[str, Sequence[int]]) -> str | None:
    """What the last dense layer takes, if the output is its scores, perhaps as probabilities."""
    node, biased = makers.get(output), False
    while node is not None:
        if node.op_type in ("Gemm", "MatMul"):
            return node.input[0] if len(weights.get(node.input[1], ())) == 2 else None
        if node.op_type == "Add" and not biased:
            biased = True
            (bias, rest) = node.input if node.input[0] in weights else reversed(node.input)
            if bias not in weights:
                return None
            node = makers.get(rest)
        elif node.op_type in PASSES_SCORES_ON:
            node = makers.get(node.input[0])
        else:
            return None
    return None


def _adapt_input(graph: Graph, taken: Input, place: object) -> None:
    """Have the graph take examples as they are prepared: channels first."""
    inside = tuple(taken.dims[1:])
    if _fits(graph.shape, inside):
        return
    turned = (*graph.shape[1:], graph.shape[0])
    if len(graph.shape) != 3 or not _fits(turned, inside):
        raise SourceError(
            f"{place} takes {taken.words()}, which does not fit examples of shape {list(graph.shape)}; "
            "correct the preprocessing in the JSON file beside it"
        )
    inner = graph.fresh("channels_last")
    graph.rename(graph.input, inner)
    graph.nodes.insert(0, helper.make_node("Transpose", [graph.input], [inner], "channels_last", perm=[0, 2, 3, 1]))


def _fits(shape: Sequence[int], dims: Sequence[int | None]) -> bool:
    return len(shape) == len(dims) and all(d is None or d == s for s, d in zip(shape, dims))


def _flatten(graph: Graph) -> list[str]:
    """Average the features over places (space, time, tokens), so that an example has one vector."""
    shape = observe(graph, [graph.output], graph.batch or 1)[graph.output].shape
    channel = channel_axis(graph, graph.output, shape)
    axes = [axis for axis in range(1, len(shape)) if axis != channel]
    if len(shape) not in (3, 4, 5) or math.prod(shape[a] for a in axes) == 1 or shape[channel] == 1:
        return []
    pooled = graph.fresh("average")
    if graph.opset >= 18:
        graph.nodes.append(
            helper.make_node("ReduceMean", [graph.output, graph.constant(np.array(axes))], [pooled], pooled)
        )
    else:
        graph.nodes.append(helper.make_node("ReduceMean", [graph.output], [pooled], pooled, axes=axes))
    graph.output = pooled
    return [f"of shape {list(shape[1:])}, averaged over all but {shape[channel]} channels"]
