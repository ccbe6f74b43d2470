"""From an ONNX file to a network: read, trim, convert, check against onnxruntime; or stay in it, and say why."""

from __future__ import annotations

import copy
import json
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, shape_inference
from torch import nn

from headstart._errors import SourceError
from headstart._runtime import say
from headstart.sources._onnx._convert import (
    NOTE,
    crossings,
    is_activation,
    pack,
    pick,
    safe_names,
    to_torch,
    unpack,
)
from headstart.sources._onnx._file import read
from headstart.sources._onnx._graph import Graph, Shapes
from headstart.sources._onnx._loosen import loosen, shapes_of
from headstart.sources._onnx._rewrite import missing, rewrite
from headstart.sources._onnx._session import ERRORS, Frozen, example
from headstart.sources._onnx._trim import trim

TOLERANCE = 1e-4  # of the features, relative to the largest; one file's two runtimes differ by 1e-6 to 1e-5
ROUGH = 0.1  # the same for bf16 against fp32, above which a network keeps to fp32
ROWS = 3  # examples in a check
FAILS = (
    *(RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError, AssertionError, StopIteration),
    *(shape_inference.InferenceError, *ERRORS),
)
"""What converting a graph that does not convert may raise."""
_CONVERTING = threading.Lock()  # making a layer draws from torch's one global generator


class Stays(Exception):
    """Why a network stays in onnxruntime."""


def prepare(path: Path, args: Mapping[str, Any]) -> tuple[nn.Module, bytes]:
    """The network in ``path`` with its weights, and the file from which ``unpacked`` builds it again.

    ``args``: see ``trim``; also ``stages``, the nodes or tensors to cut after. Raises SourceError.
    """
    try:
        graph, notes = trim(read(path), args, path)
        truth = _truth(graph, path)
    except (*FAILS,) as error:
        raise SourceError(f"onnxruntime cannot run {path}: {_line(error)}") from error
    about: dict[str, Any] = {"notes": notes, "parameters": _values(graph)}
    try:
        network, packed = _converted(graph, truth, about, args.get("stages"), path)
    except Stays as reason:
        about |= {"trainable": 0, "frozen_because": str(reason)}
        model = graph.model()
        model.metadata_props.add(key=NOTE, value=json.dumps({"frozen": True, "batch": truth.batch, "about": about}))
        packed = model.SerializeToString()
        network = Frozen(packed, truth.batch, about)
    _tell(path, about)
    return network, packed


def _tell(path: Path, about: Mapping[str, Any]) -> None:
    for note in about["notes"]:
        say(f"{path}: {note}")
    if about["trainable"]:
        share = 100 * about["trainable"] / max(1, about["parameters"])
        say(
            f"{path}: {about['trainable']:,} values can be trained ({share:.0f} % of all); "
            f"features equal onnxruntime's to {about['differs_by']:.0e}"
        )
    else:
        say(f"{path}: used frozen, through onnxruntime, because {about['frozen_because']}")


def unpacked(path: Path) -> nn.Module:
    """The network of a file that ``prepare`` made; a converted one has NaN for large weights. Raises SourceError."""
    try:
        return _built(read(path))
    except FAILS as error:
        raise SourceError(f"{path} is no graph that headstart prepared, or a damaged one ({_line(error)})") from error


def _built(model: ModelProto) -> nn.Module:
    note = json.loads(next(entry.value for entry in model.metadata_props if entry.key == NOTE))
    if note.get("frozen"):
        return Frozen(model.SerializeToString(), int(note["batch"]), dict(note["about"]))
    graph, shapes = unpack(model)
    with _CONVERTING, torch.random.fork_rng(devices=[]):
        network = to_torch(graph, [str(name) for name in note["stages"]], shapes)
    network.about, network.only_fp32 = dict(note["about"]), bool(note["only_fp32"])
    return network


# ---------------------------------------------------------------- the truth


def _truth(graph: Graph, path: Path) -> Frozen:
    """The graph in onnxruntime, which every other form of it has to equal. Examples go through one by one where they
    would influence each other, or where the graph takes no more than one."""
    model = graph.model().SerializeToString()
    alone = Frozen(model, graph.batch or 1, {})
    x = torch.from_numpy(example(graph, ROWS).astype(np.float32))
    expected = alone(x)
    if len(expected) != ROWS:
        raise SourceError(f"{path} gives {list(expected.shape)} for {ROWS} examples; a source gives a row for each")
    if not torch.isfinite(expected).all():
        raise SourceError(f"{path} gives features that are no numbers (NaN or infinite) for random input")
    if graph.batch:
        return alone
    together = Frozen(model, 0, {})
    try:
        alone.mixes = not _difference(together(x), expected) <= TOLERANCE
    except ERRORS:
        return alone  # its batch axis is named but not free
    return alone if alone.mixes else together


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of a feature, relative to the largest feature of its example."""
    if found.shape != expected.shape:
        return float("inf")
    gaps = (found.double() - expected.double()).abs().flatten(1).amax(1)
    sizes = expected.double().abs().flatten(1).amax(1)
    gap = float((gaps / sizes.clamp_min(1e-3 * float(sizes.max()) + 1e-12)).max())
    return gap if math.isfinite(gap) else math.inf


def _counted(network: nn.Module) -> dict[str, int]:
    """How many values can be trained, and how many there are (statistics of norms and single numbers left out)."""
    trainable = sum(p.numel() for p in network.parameters())
    fixed = sum(
        b.numel()
        for name, b in network.named_buffers()
        if b.is_floating_point() and b.numel() > 1 and not name.endswith(("running_mean", "running_var"))
    )
    return {"parameters": trainable + fixed, "trainable": trainable}


def _values(graph: Graph) -> int:
    return sum(int(a.size) for a in graph.constants.values() if a.dtype.kind == "f" and a.size > 1)


# ---------------------------------------------------------------- conversion


def _converted(
    trimmed: Graph, truth: Frozen, about: dict[str, Any], wanted: Sequence[str] | None, path: Path
) -> tuple[nn.Module, bytes]:
    """The network as torch modules, equal to ``truth``, and its file. Adds to ``about``. Raises Stays."""
    graph = trimmed.copy()
    if truth.mixes:
        raise Stays("in a batch its examples change each other's features")
    try:
        loosen(graph)
        rewrite(graph, shapes_of(graph))
        if without := missing(graph):
            raise Stays(f"onnx2torch does not know {', '.join(without)} (opset {trimmed.opset})")
        names = _names(graph)
        nodes = safe_names(graph)
        shapes = shapes_of(graph)
        stages = _wanted(graph, shapes, wanted, names, nodes, path) if wanted is not None else pick(graph, shapes)
        with _CONVERTING, torch.random.fork_rng(devices=[]):
            weights = to_torch(graph, stages, shapes).state_dict()
        note = {"stages": stages, "only_fp32": False, "about": about}
        network = _again(pack(graph, shapes, note), weights)
        about |= _counted(network)
        _check(network, truth, graph, about)
        note["only_fp32"] = not _works_in_bf16(network, graph)
        packed = pack(graph, shapes, note)
        return _again(packed, weights), packed
    except FAILS as error:
        raise Stays(f"it does not convert ({type(error).__name__}: {_line(error)})") from error


def _again(packed: bytes, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """The network built from its file, as every later opening will."""
    network = _built(ModelProto.FromString(packed))
    network.load_state_dict(dict(weights))
    return network


def _check(network: nn.Module, truth: Frozen, graph: Graph, about: dict[str, Any]) -> None:
    """Raises Stays unless the network gives what onnxruntime gives, and has something to train."""
    for seed in (0, 1):
        x = torch.from_numpy(example(graph, ROWS, seed).astype(np.float32))
        with torch.inference_mode():
            gap = _difference(network(x), truth(x))
        if not gap <= TOLERANCE:
            how = f"by {gap:.1g} of the largest feature" if math.isfinite(gap) else "in the shape of its features"
            raise Stays(f"its converted form differs from onnxruntime {how}")
        about["differs_by"] = max(gap, about.get("differs_by", 0.0))
    if not about["trainable"]:
        raise Stays("it has no weights that could be trained")


def _works_in_bf16(network: nn.Module, graph: Graph) -> bool:
    x = torch.from_numpy(example(graph, ROWS).astype(np.float32))
    try:
        with torch.inference_mode():
            return _difference(copy.deepcopy(network).bfloat16()(x.bfloat16()).float(), network(x)) <= ROUGH
    except (RuntimeError, TypeError, ValueError):
        return False


def _names(graph: Graph) -> dict[str, str]:
    """What a user may call a tensor: its own name, and that of the node that makes it."""
    return {n.name: n.output[0] for n in graph.nodes} | {o: o for n in graph.nodes for o in n.output if o}


def _wanted(
    graph: Graph, shapes: Shapes, wanted: Sequence[str], names: Mapping[str, str], nodes: Mapping[str, str], path: Path
) -> list[str]:
    """The nodes behind the user's own list of stages, in the graph's order."""
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise SourceError(f"{path} has no node or tensor {unknown[0]!r} before its features; correct `stages`")
    places = [graph.nodes[i] for i in crossings(graph)]
    allowed = [node.name for node in places if is_activation(shapes.get(node.output[0]))]
    chosen = {nodes[names[name]]: name for name in wanted}
    if bad := [name for node, name in chosen.items() if node not in allowed]:
        raise SourceError(
            f"{path} cannot be cut after {bad[0]!r}: more than one tensor crosses there; correct `stages`"
        )
    return [name for name in allowed if name in chosen]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
