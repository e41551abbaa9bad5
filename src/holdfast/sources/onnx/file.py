"""Reading an ONNX file: sizes first, data from elsewhere only from beside it, nothing that runs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import InvalidInput, MissingExtra, Obstacle, Unsupported
from holdfast.files import MOST_BYTES, check_once, read_file, reason
from holdfast.sources.files import check_count, read_beside
from holdfast.sources.onnx.build import WHAT, OnnxGraph, OnnxNode

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

_TYPES: Mapping[int, type[np.generic]] = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
}
"""Element types of ONNX tensors that are read."""


def read_onnx(path: Path, output: str | None = None) -> OnnxGraph:
    """Read the graph of an ONNX file.

    Args:
        path: The file.
        output: Which of its outputs, or another value in it: the model ends there. Needed only
            where it has several outputs.

    Returns:
        The graph, its constants decoded.

    Raises:
        MissingExtra: When the `onnx` package is not installed.
        InvalidInput: When the file is not an ONNX model, its data lies elsewhere, or it has no
            such value.
        Unsupported: When it has several inputs, several outputs and none is chosen, or kinds of
            content that are not read.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx", "onnx", "an ONNX file") from error
    wanted = "an ONNX model"
    content = read_file(path, "model", wanted)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as problem:  # protobuf's own, and decoding errors
        raise InvalidInput("model", f"{str(path)!r} ({reason(problem)})", wanted) from problem
    if not model.graph.node:
        raise InvalidInput("model", f"{str(path)!r}, which has no operators", wanted)
    try:
        return _decode(model, path, output)
    except (InvalidInput, Unsupported):
        raise
    except Exception as problem:  # a damaged file can break its reader anywhere
        raise InvalidInput("model", f"{str(path)!r} ({reason(problem)})", wanted) from problem


def _decode(model: "ModelProto", path: Path, output: str | None) -> OnnxGraph:
    graph = model.graph
    check_count("nodes", len(graph.node))
    check_count("constants", len(graph.initializer))
    written = [name for node in graph.node for name in node.output if name]
    # Readers differ in which of two values of one name they take: a name is given once.
    check_once("initialiser", [each.name for each in graph.initializer])
    check_once("input", [each.name for each in graph.input])
    check_once("value", [*{each.name for each in (*graph.input, *graph.initializer)}, *written])
    opsets = {each.version for each in model.opset_import if each.domain in _OWN}
    opset = opsets.pop() if len(opsets) == 1 else 0
    results = [each.name for each in graph.output]
    if output is not None and output not in (*results, *written):
        wanted = f"an output ({', '.join(results)}) or another value in the file"
        raise InvalidInput("model", f"?output={output}", wanted)
    results = results if output is None else [output]
    nodes = _needed(graph, results)
    obstacles = [*_obstacles(model, opset, nodes)]
    constants = _constants(graph, path)
    inputs = [each for each in graph.input if each.name not in constants]
    for kind, names, advice in (
        ("input", [each.name for each in inputs], "store all but one in the file, as initialisers"),
        ("output", results, "choose one with ?output=NAME"),
    ):
        if len(names) != 1:
            why = f"{len(names)} of them ({', '.join(names)}), wanted one"
            obstacles.append(Obstacle("", kind, why, advice))
    if obstacles:
        raise Unsupported(WHAT, obstacles)
    dtype, shape = _input_type(inputs[0], nodes)
    decoded = tuple(_node(each, path) for each in nodes)
    return OnnxGraph(decoded, constants, inputs[0].name, dtype, shape, results[0], opset)


def _needed(graph: "GraphProto", results: Sequence[str]) -> "list[NodeProto]":
    """Return the nodes that values depend on, in order."""
    read, found = {*results}, []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            read.update(filter(None, node.input))
            found.append(node)
    return found[::-1]


_OWN = ("", "ai.onnx")


def _constants(graph: "GraphProto", path: Path) -> dict[str, Tensor]:
    """Return the initialisers by name.

    Raises:
        ValueError: When they are too large together: several may be read from one place.
    """
    found, held = {}, 0
    for each in graph.initializer:
        found[each.name] = value = _tensor(each, path)
        held += value.nbytes
        if held > MOST_BYTES:
            raise ValueError(f"constants of more than {MOST_BYTES} bytes")
    return found


def _obstacles(model: "ModelProto", opset: int, nodes: "Sequence[NodeProto]") -> Iterator[Obstacle]:
    """Yield what a file holds that is not read."""
    graph: GraphProto = model.graph
    if not 7 <= opset <= 26:
        why = f"opset {opset}, wanted 7 to 26"
        yield Obstacle("", "version", why, "convert it with onnx.version_converter")
    if model.functions:
        yield Obstacle("", "functions", "operators defined in the file", "inline them with onnx")
    if graph.sparse_initializer:
        yield Obstacle("", "sparse constants", "are not read", "store them densely")
    if any(each.quant_parameter_tensor_names for each in graph.quantization_annotation):
        yield Obstacle("", "quantisation", "the model is quantised")
    for node in nodes:
        if node.domain not in _OWN:
            yield Obstacle(node.name, node.op_type, f"an operator of {node.domain!r}")


def _input_type(
    value: "ValueInfoProto", nodes: "Sequence[NodeProto]"
) -> tuple[torch.dtype, tuple[int | None, ...]]:
    """Return type and shape of the input, with None for a batch left open.

    Bytes and other whole numbers that the model casts at once are read as what it casts them to:
    the model is the same function, and takes all that lies between as well.

    Raises:
        Unsupported: When it is not floating point, or more than the batch is left open.
    """
    kind = value.type.tensor_type
    types = {1: torch.float32, 11: torch.float64}
    elem = kind.elem_type
    if elem in _TYPES and np.issubdtype(_TYPES[elem], np.integer):
        readers = [node for node in nodes if value.name in node.input]
        to = {a.i for node in readers for a in node.attribute if a.name == "to"}
        if len(to) == 1 and all(node.op_type == "Cast" for node in readers):
            (elem,) = to
    if elem not in types:
        why, advice = "not float32 or float64", "cast it in the model, before any other operator"
        raise Unsupported(WHAT, [Obstacle(value.name, "input", why, advice)])
    sizes = [dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim]
    if not sizes or None in sizes[1:] or sizes == [None]:
        shown = [dim.dim_param or dim.dim_value for dim in kind.shape.dim]
        why, advice = f"its shape {shown} is not fixed", "export it with every size but the batch"
        raise Unsupported(WHAT, [Obstacle(value.name, "input", why, advice)])
    return types[elem], tuple(sizes)


def _node(node: Any, path: Path) -> OnnxNode:
    check_once("attribute", [each.name for each in node.attribute])
    attributes = {each.name: _attribute(each, path) for each in node.attribute}
    return OnnxNode(node.op_type, node.name, tuple(node.input), tuple(node.output), attributes)


def _attribute(attribute: "AttributeProto", path: Path) -> Any:
    """Return the value of an attribute.

    Raises:
        ValueError: For a graph, or anything else that is not a value.
    """
    kind = attribute.type
    if kind == attribute.TENSOR:
        return _tensor(attribute.t, path)
    if kind == attribute.STRING:
        return attribute.s.decode("utf-8")
    if kind == attribute.STRINGS:
        return [each.decode("utf-8") for each in attribute.strings]
    if kind in (attribute.FLOAT, attribute.INT):
        return attribute.f if kind == attribute.FLOAT else attribute.i
    if kind in (attribute.FLOATS, attribute.INTS):
        return list(attribute.floats if kind == attribute.FLOATS else attribute.ints)
    if kind in (attribute.GRAPH, attribute.GRAPHS):
        return None  # belongs to an operator that is refused by its name
    raise ValueError(f"attribute {attribute.name!r} of kind {kind}")


def _tensor(tensor: "TensorProto", path: Path) -> Tensor:
    """Return a constant; its size is compared with what is there before anything is made.

    Raises:
        ValueError: When type, shape and data do not belong together.
    """
    kind = _TYPES.get(tensor.data_type)
    if kind is None:
        raise ValueError(f"constant {tensor.name!r} of ONNX type {tensor.data_type}")
    shape, little = tuple(tensor.dims), np.dtype(kind).newbyteorder("<")
    if any(size < 0 for size in shape):
        raise ValueError(f"constant {tensor.name!r} of shape {list(shape)}")
    expected = math.prod(shape)
    external = tensor.data_location == tensor.EXTERNAL
    lists = ("float", "double", "int32", "int64", "uint64", "string", "raw")
    if sum(bool(getattr(tensor, f"{kind}_data")) for kind in lists) > (0 if external else 1):
        raise ValueError(f"constant {tensor.name!r} has its data in several places")
    raw = _external(tensor, path, expected * little.itemsize) if external else tensor.raw_data
    values = np.frombuffer(raw, little) if raw else _listed(tensor, kind)
    if len(values) != expected:
        got = f"{len(values)} entries for shape {list(shape)}"
        raise ValueError(f"constant {tensor.name!r} has {got}")
    return torch.from_numpy(values.reshape(shape).astype(kind, copy=True))


def _listed(tensor: "TensorProto", kind: type[np.generic]) -> np.ndarray:
    """Return the values of a constant that is stored as a list."""
    if kind is np.float32:
        return np.asarray(tensor.float_data, kind)
    if kind is np.float64:
        return np.asarray(tensor.double_data, kind)
    if kind is np.int64:
        return np.asarray(tensor.int64_data, kind)
    listed = np.asarray(tensor.int32_data, np.int32)
    return listed.astype(np.uint16).view(kind) if kind is np.float16 else listed.astype(kind)


def _external(tensor: "TensorProto", path: Path, expected: int) -> bytes:
    """Return the bytes of a constant that lies in another file.

    Raises:
        ValueError: When its length is not that of the constant.
    """
    check_once("entry", [each.key for each in tensor.external_data])
    entries = {each.key: each.value for each in tensor.external_data}
    start = int(entries.get("offset", "0"))
    length = int(entries.get("length", str(expected)))
    if length != expected:
        raise ValueError(f"constant {tensor.name!r}: {length} bytes, wanted {expected}")
    part = range(start, start + length)
    return read_beside(path.parent, entries.get("location", ""), "model", part)
