"""Read an ONNX file that a stranger may have written: data only, and nothing from outside its folder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from headstart._errors import SourceError

LIMIT = 2**31 - 1  # bytes; no protobuf message is larger
MOST_NODES = 200_000
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Whose operators onnxruntime brings along; any other would need somebody's code."""


def read(path: Path) -> ModelProto:
    """The network in ``path`` with all its weights in memory. Raises SourceError with the reason it cannot be used."""
    model = _parse(path)
    _bring_in(model, path)
    if model.functions:
        from onnx.inliner import inline_local_functions

        model = inline_local_functions(model)
    check_nodes(model, path)
    return model


def external_files(path: Path) -> list[Path]:
    """Files beside ``path`` that hold its weights. Raises SourceError if one lies elsewhere or is missing."""
    model = _parse(path)
    places = {_location(t): None for t in _all_tensors(model) if t.data_location == TensorProto.EXTERNAL}
    return [_beside(path, place) for place in places]


def check_nodes(model: ModelProto, path: Path) -> None:
    """Raises SourceError for operators that would need somebody's code, and for a graph out of all proportion."""
    nodes = list(_all_nodes(model.graph))
    custom = sorted({f"{n.domain}.{n.op_type}" for n in nodes if n.domain not in DOMAINS})
    if custom:
        raise SourceError(
            f"{path} uses operators that ONNX does not define ({', '.join(custom[:5])}), which would need code from "
            "elsewhere and are not loaded; export the network with standard operators only"
        )
    if len(nodes) > MOST_NODES:
        raise SourceError(f"{path} has {len(nodes)} operators; at most {MOST_NODES} are accepted")


def _parse(path: Path) -> ModelProto:
    try:
        size = path.stat().st_size
        if size > LIMIT:
            raise SourceError(f"{path} has {size / 1e9:.1f} GB; at most 2 GB can be read")
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror or error})") from error
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise SourceError(_damaged(path, "it cannot be parsed")) from error
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise SourceError(_damaged(path, "it holds no graph"))
    return model


def _damaged(path: Path, why: str) -> str:
    return f"{path} is no ONNX file, or a damaged one ({why}); copy or export it again"


def _bring_in(model: ModelProto, path: Path) -> None:
    """Take external weights into memory; check that every tensor has as many bytes as its shape says."""
    total = 0
    for tensor in _all_tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            _load_external(tensor, path)
        total += len(tensor.raw_data)
        if total > LIMIT:
            raise SourceError(f"{path} has more than 2 GB of weights, which cannot be read")
        size = _size(tensor)
        if size is not None and tensor.HasField("raw_data") and len(tensor.raw_data) != size:
            raise SourceError(
                _damaged(path, f"the tensor {tensor.name!r} has {len(tensor.raw_data)} bytes, not {size}")
            )


def _load_external(tensor: TensorProto, path: Path) -> None:
    file = _beside(path, _location(tensor))
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", _size(tensor) or 0))
    except ValueError as error:
        raise SourceError(_damaged(path, f"the place of {tensor.name!r} in {file.name} is no number")) from error
    if offset < 0 or length < 0 or offset + length > file.stat().st_size:
        raise SourceError(_damaged(path, f"{file.name} ends before the weights of {tensor.name!r}"))
    with file.open("rb") as stream:
        stream.seek(offset)
        tensor.raw_data = stream.read(length)
    del tensor.external_data[:]
    tensor.data_location = TensorProto.DEFAULT


def _location(tensor: TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _beside(path: Path, place: str) -> Path:
    """The file that an ONNX file names for its weights, if it lies in the same folder."""
    parts = {*PurePosixPath(place).parts, *PureWindowsPath(place).parts}
    folder = path.parent.resolve()
    outside = not place or PurePosixPath(place).is_absolute() or PureWindowsPath(place).anchor or ".." in parts
    if outside or not (folder / place).resolve().is_relative_to(folder):
        raise SourceError(
            f"{path} wants weights from {place!r}, which is not in its folder, and is not opened; "
            "put both files into one folder and export again"
        )
    if not (folder / place).is_file():
        raise SourceError(f"{path} keeps its weights in {place}, which is not beside it; copy that file too")
    return folder / place


def _size(tensor: TensorProto) -> int | None:
    """Bytes that a tensor of this type and shape takes; None for types without a fixed width."""
    try:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError:
        return None
    if tensor.data_type in _NO_WIDTH or any(d < 0 for d in tensor.dims):
        return None
    return int(math.prod(tensor.dims) * kind.itemsize)


_NO_WIDTH = {
    getattr(TensorProto, name)
    for name in ("STRING", "UINT4", "INT4", "FLOAT4E2M1", "UINT2", "INT2")
    if hasattr(TensorProto, name)
}


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _all_nodes(inner)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs inside a node, such as the branches of an If."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from _tensors(model.graph.node, model.graph)
    for function in model.functions:
        yield from _tensors(function.node)


def _tensors(nodes: Iterable[NodeProto], graph: GraphProto | None = None) -> Iterator[TensorProto]:
    if graph is not None:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
        for inner in subgraphs(node):
            yield from _tensors(inner.node, inner)
