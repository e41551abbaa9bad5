"""Every operation of the vocabulary as the checker reads it, against the operation itself."""

import math
from collections.abc import Sequence

import pytest
import torch
from flint import ctx
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.ops.catalogue import USES, draw
from torch import Tensor

from holdfast.certificates.proofs.lowering import lower
from holdfast.certificates.proofs.proof import as_array
from holdfast.errors import Unsupported
from holdfast.graph.ir import Graph, Node
from holdfast.ops import OPS
from holdfast.ops.geometry import ConvGeometry
from holdfast.ops.record import Params
from holdfast_check.network import logits, read_graph

CURVED = {"softmax", "log_softmax", "layer_norm", "rms_norm", "group_norm"}
CURVED |= {"vector_norm", "logsumexp"}
WITHOUT_CONSTANT = {
    "root",
    "tan",
    "power",
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "product",
    "matmul",
}
REWRITTEN = {
    "scale_channels"
}  # stands in no captured graph, only for the linear part of batch norm


def graph_of(name: str, params: Params, shapes: Sequence[tuple[int, ...]]) -> Graph:
    """Return a graph of one operation, whose inputs are parts of one row."""
    sizes = [math.prod(shape) for shape in shapes]
    nodes, start = [Node("x", "input", shape=(sum(sizes),))], 0
    for k, (size, shape) in enumerate(zip(sizes, shapes, strict=True)):
        part = {"dim": 1, "start": start, "stop": start + size, "step": 1}
        nodes.append(Node(f"cut{k}", "slice", ("x",), part, (size,)))
        nodes.append(Node(f"in{k}", "reshape", (f"cut{k}",), {"shape": shape}, shape))
        start += size
    inputs = tuple(f"in{k}" for k in range(len(shapes)))
    nodes.append(Node("op", name, inputs, params, run(name, params, shapes, nodes[0].shape[0])[1]))
    return Graph(tuple(nodes), "op", {})


def run(name: str, params: Params, shapes: Sequence, entries: int) -> tuple[Tensor, tuple]:
    """Return rows and what the operation makes of a row, with its shape."""
    rows = draw(3, entries, seed=7)
    sizes = [math.prod(shape) for shape in shapes]
    parts = rows.split(sizes, 1)
    results = OPS[name].run([p.reshape(3, *s) for p, s in zip(parts, shapes, strict=True)], params)
    return results.flatten(1), tuple(results.shape[1:])


def assert_same(name: str, params: Params, shapes: Sequence[tuple[int, ...]]) -> None:
    graph = graph_of(name, params, shapes)
    ops, arrays, sizes = lower(graph)
    entries = sizes[0]
    with ctx.workprec(128):
        parsed = [op | {"slope": float.fromhex(op["slope"])} for op in ops]
        steps = read_graph(parsed, entries, {k: as_array(array) for k, array in arrays.items()})
        assert [step.size for step in steps] == sizes
        rows = [as_array(row).numbers() for row in draw(3, entries, seed=7)]
        found = [[float(entry) for entry in row] for row in logits(steps, rows)]
    expected, _ = run(name, params, shapes, entries)
    assert torch.allclose(
        torch.tensor(found, dtype=torch.float64), expected, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(("name", "params", "shapes"), USES, ids=[use[0] for use in USES])
def test_an_operation_is_read_as_what_it_is(name, params, shapes) -> None:
    refused = name in CURVED | WITHOUT_CONSTANT | REWRITTEN
    if refused or params.get("alpha", 1.0) < 0:
        with pytest.raises(Unsupported, match=f"{name}: the checker knows|does not know"):
            lower(graph_of(name, params, shapes))
        return
    assert_same(name, params, shapes)


@given(st.data())
@settings(max_examples=60)
def test_averages_over_windows_of_any_kind(data) -> None:
    rank = data.draw(st.integers(1, 2))
    shape = (2, *(data.draw(st.integers(2, 5)) for _ in range(rank)))
    if data.draw(st.booleans()):
        size = tuple(data.draw(st.integers(1, 6)) for _ in range(rank))
        assert_same("adaptive_avg_pool", {"size": size}, [shape])
        return
    kernel = tuple(data.draw(st.integers(1, 3)) for _ in range(rank))
    params = {
        "kernel": kernel,
        "stride": tuple(data.draw(st.integers(1, 3)) for _ in range(rank)),
        "padding": tuple(data.draw(st.integers(0, k // 2)) for k in kernel),
        "ceil_mode": data.draw(st.booleans()),
        "count_include_pad": data.draw(st.booleans()),
        "divisor": data.draw(st.sampled_from([None, 3])) if rank == 2 else None,
    }
    assume(
        all(n + 2 * p >= k for n, k, p in zip(shape[1:], kernel, params["padding"], strict=True))
    )
    assert_same("avg_pool", params, [shape])


@given(st.data())
@settings(max_examples=60)
def test_convolutions_of_any_kind(data) -> None:
    rank, groups = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    ins, outs = groups * data.draw(st.integers(1, 2)), groups * data.draw(st.integers(1, 2))
    shape = (ins, *(data.draw(st.integers(3, 5)) for _ in range(rank)))
    kernel = tuple(data.draw(st.integers(1, 2)) for _ in range(rank))
    stride = tuple(data.draw(st.integers(1, 3)) for _ in range(rank))
    transposed = data.draw(st.booleans())
    pad = data.draw(st.integers(0, 1))
    geometry = ConvGeometry(
        stride,
        ((pad, pad),) * rank,
        tuple(data.draw(st.integers(1, 2)) for _ in range(rank)),
        1 if transposed else groups,
        "constant" if transposed else data.draw(st.sampled_from(["constant", "circular"])),
        tuple(s - 1 for s in stride) if transposed else (),
    )
    weight = draw(ins, outs, *kernel) if transposed else draw(outs, ins // groups, *kernel)
    bias = data.draw(st.sampled_from([None, draw(outs, seed=3)]))
    params = {"weight": weight, "bias": bias, "geometry": geometry}
    assert_same("conv_transpose" if transposed else "conv", params, [shape])
