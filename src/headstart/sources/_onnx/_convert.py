"""A prepared graph as torch modules, one for each stretch between two places where a single tensor crosses."""

from __future__ import annotations

import json
import keyword
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import fx, nn

from headstart.sources._onnx._graph import Array, Graph, Shapes, channel_axis, count_uses, reads

STAGES = 10
MOST_VALUES = 2**29  # of one tensor, in a file that says nothing of its values
LARGE = 1024  # values; smaller tensors stay in the graph's file, where some say what a node does
NOTE = "headstart"
"""Key under which a prepared graph carries what else is known of it."""
END = "end"


# ---------------------------------------------------------------- names


def safe_names(graph: Graph) -> dict[str, str]:
    """Rename nodes and tensors so that each can stand in a program; returns the new node name of every tensor.

    torch.fx writes a program with the nodes' names in it and runs it, so a name from a file could be one's undoing.
    """
    nodes: dict[str, str] = {}
    tensors = {graph.input: "x"}
    taken: set[str] = {END}
    for i, name in enumerate(graph.constants):
        tensors[name] = f"c{i}"
    for node in graph.nodes:
        name = _safe(node.name or node.output[0] or node.op_type, taken)
        taken.add(name)
        for old in filter(None, node.output):
            nodes[old], tensors[old] = name, f"v{len(tensors)}"
        node.name = name
        node.domain = ""
        node.doc_string = ""
    for node in graph.nodes:
        node.input[:] = [tensors[name] if name else "" for name in node.input]
        node.output[:] = [tensors[name] if name else "" for name in node.output]
    graph.constants = {tensors[name]: array for name, array in graph.constants.items()}
    graph.input, graph.output = "x", tensors[graph.output]
    return nodes


def _safe(name: str, taken: set[str]) -> str:
    plain = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")[:80] or "node"
    plain = f"n{plain}" if plain[0].isdigit() else plain
    number, found = 0, plain
    while found in taken or not is_safe(found):
        number += 1
        found = f"{plain}_{number}"
    return found


def is_safe(name: str) -> bool:
    """Whether a name can be a module's: a plain word that means nothing to Python or torch."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is not None
    return plain and not keyword.iskeyword(name) and not hasattr(_LIKE, name)


_LIKE = nn.Module()


# ---------------------------------------------------------------- stages


def crossings(graph: Graph) -> list[int]:
    """After which nodes a single tensor crosses: all that comes later reads nothing else of what came before."""
    left, found = count_uses(graph), []
    alive = {graph.input}
    for i, node in enumerate(graph.nodes[:-1]):
        for name in dict.fromkeys(reads(node)):
            left[name] -= 1
            if not left[name]:
                alive.discard(name)
        alive |= {name for name in node.output if left[name]}
        if len(alive) == 1 and alive == {node.output[0]}:
            found.append(i)
    return found


def pick(graph: Graph, shapes: Shapes) -> list[str]:
    """Names of at most ``STAGES`` nodes to cut after, spread evenly over layers and weights taken together.

    Of the places between one layer with weights and the next, the last of the smallest activations comes into
    question; after the last such layer, the last before the activation shrinks (to the features).
    """
    sizes = np.array([sum(_weight_size(graph, name) for name in node.input) for node in graph.nodes], float)
    if not sizes.any():
        return []
    layers = (sizes > 0).astype(float)
    depth = np.cumsum(layers) / layers.sum() / 2 + np.cumsum(sizes) / sizes.sum() / 2
    at: dict[float, tuple[int, int]] = {}  # depth → values of an example there, place
    for place in crossings(graph):
        shape = shapes.get(graph.nodes[place].output[0])
        if depth[place] == 0 or not is_activation(shape):
            continue
        values, before = math.prod(shape[1:]), at.get(depth[place])  # type: ignore[index, arg-type]
        if before is None or values == before[0] or (values < before[0] and depth[place] < depth[-1]):
            at[depth[place]] = (values, place)
    if not at:
        return []
    places = [place for _, place in at.values()]
    wanted = np.linspace(0, 1, STAGES + 1)[1:]
    nearest = {min(places, key=lambda p: (abs(depth[p] - w), p)) for w in wanted}
    return [graph.nodes[place].name for place in sorted(nearest)]


def is_activation(shape: tuple[int | None, ...] | None) -> bool:
    """Whether a tensor has a row for every example and channels whose number is known."""
    return shape is not None and 2 <= len(shape) <= 4 and shape[0] is None and None not in shape[1:]


def _weight_size(graph: Graph, name: str) -> int:
    array = graph.constants.get(name)
    return int(array.size) if array is not None and is_weight(array) else 0


def is_weight(array: Array) -> bool:
    """Whether a constant is something that was learnt: floating-point, more than one value, and no mask.

    A mask has several axes but only one or two different values; scales and offsets have one axis.
    """
    if array.dtype.kind != "f" or array.size < 2:
        return False
    if np.isnan(array).any() or max(array.shape) == array.size:  # NaN: taken out of the file, see ``strip``
        return True
    return not np.isin(array, [array.min(), array.max()]).all()


# ---------------------------------------------------------------- the file that a network is built from again


def pack(graph: Graph, shapes: Shapes, about: Mapping[str, Any]) -> bytes:
    """The prepared graph as a file; large weights are left out, because they are kept elsewhere."""
    model = graph.model()
    made = {name for node in graph.nodes for name in node.output}
    model.graph.value_info.extend(_described(name, shape) for name, shape in shapes.items() if name in made)
    for tensor in model.graph.initializer:
        array = graph.constants[tensor.name]
        if is_weight(array) and array.size >= LARGE:
            tensor.ClearField("raw_data")
    model.metadata_props.add(key=NOTE, value=json.dumps(about))
    return bytes(model.SerializeToString())


def unpack(model: ModelProto) -> tuple[Graph, Shapes]:
    """The inverse of ``pack``, with NaN for the weights that were left out. Raises ValueError for a hostile file."""
    (given,), (wanted,) = model.graph.input, model.graph.output
    nodes = list(model.graph.node)
    tensors = [given.name, wanted.name, *(t.name for t in model.graph.initializer)]
    tensors += [name for node in nodes for name in (*node.input, *node.output) if name]
    if any(not _WORD.fullmatch(name) for name in tensors) or any(n.domain or not is_safe(n.name) for n in nodes):
        raise ValueError("it has names that headstart does not give")
    if len({node.name for node in nodes}) < len(nodes):
        raise ValueError("two of its nodes have one name")
    dims = [d.dim_value for d in given.type.tensor_type.shape.dim]
    graph = Graph(
        nodes=nodes,
        constants={t.name: _array(t) for t in model.graph.initializer},
        input=given.name,
        element=given.type.tensor_type.elem_type,
        shape=tuple(dims[1:]),
        batch=dims[0],
        output=wanted.name,
        opset=next(o.version for o in model.opset_import if not o.domain),
        domains={},
        ir=model.ir_version,
    )
    return graph, {value.name: _shape(value) for value in model.graph.value_info}


_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def _described(name: str, shape: tuple[int | None, ...]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _shape(value: ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)


def _array(tensor: TensorProto) -> Array:
    size = math.prod(tensor.dims)
    if tensor.data_type != TensorProto.FLOAT or tensor.raw_data or size < LARGE:
        return np.asarray(numpy_helper.to_array(tensor))
    if size > MOST_VALUES:
        raise ValueError(f"a tensor of shape {list(tensor.dims)} is too large")
    return np.full(tuple(tensor.dims), np.nan, np.float32)


# ---------------------------------------------------------------- torch


class Chain(nn.Sequential):
    """Stages one after the other. ``about`` is added to the source's facts, see ``Builder``."""

    feature_info: list[dict[str, Any]]
    about: dict[str, Any]
    only_fp32: bool


def to_torch(graph: Graph, stages: Sequence[str], shapes: Shapes) -> Chain:
    """A chain of modules, one per stage and one for what comes after the last; every weight is a parameter.

    ``stages``: names of nodes after which a single tensor crosses, in order. The chain carries them with their
    channels as ``feature_info``. Raises ValueError where they are no such nodes, and what onnx2torch raises.
    """
    position = {node.name: i for i, node in enumerate(graph.nodes)}
    allowed = {i for i in crossings(graph) if is_activation(shapes.get(graph.nodes[i].output[0]))}
    ends = [position.get(name, -1) for name in stages]
    if not allowed.issuperset(ends) or ends != sorted(set(ends)):
        raise ValueError("its stages are not places where one tensor crosses, in order")
    chain, start, entry = Chain(), 0, graph.input
    for name, stop in zip([*stages, END], [*ends, len(graph.nodes) - 1]):
        output = graph.output if name == END else graph.nodes[stop].output[0]
        chain.add_module(name, _piece(graph, graph.nodes[start : stop + 1], entry, output, shapes))
        start, entry = stop + 1, output
    tensors = [graph.nodes[i].output[0] for i in ends]
    widths = [shapes[tensor][channel_axis(graph, tensor, shapes[tensor])] for tensor in tensors]
    chain.feature_info = [{"module": name, "num_chs": width} for name, width in zip(stages, widths)]
    return chain.float().eval()


def _piece(graph: Graph, nodes: Sequence[NodeProto], entry: str, output: str, shapes: Shapes) -> nn.Module:
    """The stretch ``nodes`` as a module of one input."""
    from onnx2torch import convert

    part = replace(graph, nodes=list(nodes), constants=dict(graph.constants), input=entry, output=output)
    part.prune()
    made = [name for node in part.nodes for name in node.output if name in shapes and name != output]
    proto = helper.make_graph(
        part.nodes,
        "stage",
        [_described(entry, shapes.get(entry, (None, *graph.shape)))],
        [ValueInfoProto(name=output)],
        [numpy_helper.from_array(array, name) for name, array in part.constants.items()],
        value_info=[_described(name, shapes[name]) for name in made],
    )
    sets = [helper.make_opsetid("", graph.opset)]
    module: fx.GraphModule = convert(helper.make_model(proto, opset_imports=sets, ir_version=graph.ir))
    by_name = {node.name: node for node in part.nodes}
    _free_weights(module, by_name)
    _plain_slices(module, by_name, part.constants)
    return module


FACTORS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
"""Operators whose constants are weights whatever values they have."""


def _free_weights(module: fx.GraphModule, nodes: Mapping[str, NodeProto]) -> None:
    """Turn constants that were learnt into parameters. onnx2torch keeps as constants whatever is not the weight of a
    convolution, dense layer or norm: factors of a MatMul, scales, offsets, tokens, position embeddings."""
    for node in list(module.graph.nodes):
        if node.op != "get_attr":
            continue
        place, _, name = str(node.target).rpartition(".")
        owner = module.get_submodule(place)
        tensor = getattr(owner, name)
        user = next((nodes[str(u.target)] for u in node.users if str(u.target) in nodes), None)
        role = user.op_type if user is not None else ""
        factor = role in FACTORS and tensor.is_floating_point()
        if not (factor or is_weight(tensor.numpy())):
            continue
        delattr(owner, name)
        parameter = nn.Parameter(tensor.clone())
        parameter.role = role  # type: ignore[attr-defined]
        owner.register_parameter(name, parameter)


class _Slice(nn.Module):
    """A slice with fixed ends; onnx2torch's own indexes in a way that torch has deprecated."""

    def __init__(self, slices: tuple[slice, ...]) -> None:
        super().__init__()
        self.slices = slices

    def forward(self, x: torch.Tensor, *ends: torch.Tensor) -> torch.Tensor:
        return x[self.slices]


def _plain_slices(module: fx.GraphModule, nodes: Mapping[str, NodeProto], constants: Mapping[str, Array]) -> None:
    for name, node in nodes.items():
        given = [constants.get(value) for value in node.input[1:]]
        if node.op_type != "Slice" or len(given) < 2 or any(array is None for array in given):
            continue
        starts, ends, *more = ([int(v) for v in np.atleast_1d(array)] for array in given)  # type: ignore[arg-type]
        axes = more[0] if more else list(range(len(starts)))
        steps = more[1] if len(more) > 1 else [1] * len(starts)
        if min(axes) >= 0 and min(steps) > 0:
            slices = [slice(None)] * (max(axes) + 1)
            for axis, start, end, step in zip(axes, starts, ends, steps):
                slices[axis] = slice(start, end, step)
            module.add_module(name, _Slice(tuple(slices)))


def start_afresh(network: nn.Module, seed: int) -> None:
    """Random weights by one rule for all graphs, fixed by ``seed``.

    Convolutions, dense layers and factors of a MatMul: normal with variance 2 / inputs (He et al., ICCV 2015); scales
    1; offsets 0, but normal with deviation 0.02 where they differ by place (position embeddings) and for tokens;
    norms 1 and 0, their statistics 0 and 1.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            for name, parameter in module.named_parameters(recurse=False):
                _redraw(module, name, parameter, random)
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()


def _redraw(module: nn.Module, name: str, parameter: nn.Parameter, random: torch.Generator) -> None:
    role, norm = getattr(parameter, "role", None), isinstance(module, _NORMS)
    if role is None:  # a layer's own weight or bias
        if parameter.ndim > 1:
            _he(parameter, parameter[0].numel(), random)
        else:
            parameter.fill_(1.0 if norm and name == "weight" else 0.25 if isinstance(module, nn.PReLU) else 0.0)
    elif role in FACTORS[:2]:
        _he(parameter, parameter.shape[-2] if parameter.ndim > 1 else parameter.numel(), random)
    elif role in ("Mul", "Div", "LayerNormalization", "BatchNormalization", "InstanceNormalization"):
        parameter.fill_(1.0)
    elif max(parameter.shape) == parameter.numel() and role in ("Add", "Sub"):
        parameter.zero_()
    elif role in FACTORS[2:]:
        _he(parameter, parameter[0].numel(), random)
    else:
        parameter.normal_(0, 0.02, generator=random)


def _he(parameter: nn.Parameter, inputs: int, random: torch.Generator) -> None:
    parameter.normal_(0, math.sqrt(2 / max(1, inputs)), generator=random)


_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.GroupNorm,
)
