"""Every operator, beside onnxruntime: row by row, in a batch, and captured."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from holdfast.bounds.interval import interval_bounds
from holdfast.errors import Unsupported
from holdfast.graph.capture import capture
from holdfast.graph.walk import run
from holdfast.sources.onnx.build import _READ, build
from holdfast.sources.onnx.call import OPERATORS
from holdfast.sources.onnx.file import read_onnx
from holdfast.types import Box

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.sources.onnx.files import Case, save, truth

DRAW = np.random.default_rng(0)


def w(*shape: int) -> np.ndarray:
    return DRAW.normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


IMAGE = (1, 3, 6, 5)
UNARY = """
    Relu LeakyRelu Elu Celu Selu Sigmoid HardSigmoid HardSwish Tanh Softplus Softsign Mish
    Erf Exp Abs Neg Identity Floor Ceil Sin Cos Tan Atan
"""
CASES = {
    **{op: Case(op, (1, 4, 3), opset=18) for op in UNARY.split()},
    "Gelu": Case("Gelu", (1, 4), opset=20),
    "Gelu tanh": Case("Gelu", (1, 4), attributes={"approximate": "tanh"}, opset=20),
    "LeakyRelu 3": Case("LeakyRelu", ("n", 4), attributes={"alpha": 3.0}),
    "PRelu": Case("PRelu", IMAGE, ("x", w(3, 1, 1))),
    "PRelu one": Case("PRelu", (1, 4), ("x", w(1))),
    "Clip": Case("Clip", (1, 4), ("x", np.float32(-0.3), np.float32(0.2))),
    "Clip low": Case("Clip", (1, 4), ("x", np.float32(-0.3))),
    "Clip high": Case("Clip", (1, 4), ("x", "", np.float32(0.2))),
    "Clip 6": Case("Clip", (1, 4), attributes={"min": -0.5, "max": 0.5}, opset=10),
    "Dropout": Case("Dropout", (1, 4)),
    "Dropout 7": Case("Dropout", (1, 4), attributes={"ratio": 0.3}, opset=10, outputs=2),
    "Cast": Case("Cast", (1, 4), attributes={"to": 1}),
    "Gemm": Case("Gemm", (1, 4), ("x", w(4, 3), w(3))),
    "Gemm B": Case("Gemm", ("n", 4), ("x", w(3, 4), w(1, 3)), {"transB": 1}),
    "Gemm alpha": Case("Gemm", (1, 4), ("x", w(4, 3), w(3)), {"alpha": 0.7, "beta": 0.3}),
    "Gemm no bias": Case("Gemm", (1, 4), ("x", w(4, 3)), {"alpha": 2.0}),
    "Gemm tokens": Case("Gemm", (5, 4), ("x", w(4, 3), w(5, 3))),
    "Gemm A": Case("Gemm", (1, 4), (w(4, 3), "x"), {"transA": 1, "transB": 1}),
    "MatMul": Case("MatMul", ("n", 2, 4), ("x", w(4, 3))),
    "MatMul vector": Case("MatMul", (4,), ("x", w(4, 3))),
    "MatMul left": Case("MatMul", (1, 4, 2), (w(3, 4), "x")),
    "MatMul left vector": Case("MatMul", (4,), (w(3, 4), "x")),
    "MatMul heads": Case("MatMul", (1, 2, 3, 4), ("x", w(2, 4, 5))),
    "MatMul vector right": Case("MatMul", ("n", 3, 4), ("x", w(4))),
    "MatMul vector times heads": Case("MatMul", (4,), ("x", w(2, 4, 5))),
    "MatMul heads times vector": Case("MatMul", (4,), (w(2, 5, 4), "x")),
    "MatMul row left": Case("MatMul", (1, 3, 4), (w(3), "x")),
    "Einsum": Case("Einsum", (1, 4), ("x", w(4, 3)), {"equation": "bi, ij -> bj"}),
    "Einsum left": Case("Einsum", (1, 4, 2), (w(3, 4), "x"), {"equation": "ij,bjk->bik"}),
    "Einsum heads": Case("Einsum", (1, 3, 4), ("x", w(4, 2, 5)), {"equation": "bth,hnd->bntd"}),
    "Einsum dots": Case("Einsum", (1, 2, 3, 4), ("x", w(4, 5)), {"equation": "...i,ij"}),
    "Einsum one": Case("Einsum", (1, 3, 4), attributes={"equation": "bij->bji"}),
    "Einsum no arrow": Case("Einsum", (1, 4), ("x", w(4, 3)), {"equation": "ci,ia"}),
    "Einsum itself": Case("Einsum", (1, 3, 4), ("x", "x"), {"equation": "bij,bkj->bik"}),
    "MatMul itself": Case("MatMul", (1, 2, 3, 3), ("x", "x")),
    "Conv": Case("Conv", IMAGE, ("x", w(4, 3, 3, 3), w(4)), {"pads": [1, 1, 1, 1]}),
    "Conv open": Case("Conv", ("n", 3, 6, 5), ("x", w(4, 3, 3, 3)), {"strides": [2, 1]}),
    "Conv uneven": Case("Conv", IMAGE, ("x", w(4, 3, 2, 2)), {"pads": [0, 1, 1, 0]}),
    "Conv same": Case(
        "Conv", IMAGE, ("x", w(4, 3, 3, 3)), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}
    ),
    "Conv same lower": Case("Conv", IMAGE, ("x", w(4, 3, 2, 2)), {"auto_pad": "SAME_LOWER"}),
    "Conv valid": Case("Conv", IMAGE, ("x", w(4, 3, 2, 2)), {"auto_pad": "VALID"}),
    "Conv groups": Case("Conv", IMAGE, ("x", w(6, 1, 3, 3)), {"group": 3, "dilations": [2, 1]}),
    "Conv 1d": Case("Conv", (1, 3, 8), ("x", w(2, 3, 3), w(2)), {"strides": [2]}),
    "Conv 3d": Case("Conv", (1, 2, 4, 4, 4), ("x", w(2, 2, 2, 2, 2))),
    "ConvTranspose": Case("ConvTranspose", IMAGE, ("x", w(3, 2, 3, 3), w(2)), {"strides": [2, 2]}),
    "ConvTranspose pads": Case(
        "ConvTranspose", IMAGE, ("x", w(3, 2, 3, 3)), {"pads": [1, 0, 0, 1], "strides": [2, 2]}
    ),
    "ConvTranspose even": Case(
        "ConvTranspose",
        IMAGE,
        ("x", w(3, 2, 3, 3)),
        {"pads": [1, 1, 1, 1], "strides": [2, 2], "output_padding": [1, 1]},
    ),
    "ConvTranspose shape": Case(
        "ConvTranspose",
        IMAGE,
        ("x", w(3, 2, 3, 3)),
        {"strides": [2, 2], "output_shape": [12, 10]},
    ),
    "ConvTranspose shape upper": Case(
        "ConvTranspose",
        IMAGE,
        ("x", w(3, 2, 4, 3), w(2)),
        {"strides": [2, 2], "output_shape": [11, 10], "auto_pad": "SAME_UPPER"},
    ),
    "ConvTranspose same": Case(
        "ConvTranspose", IMAGE, ("x", w(3, 2, 3, 3)), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}
    ),
    "MaxPool after": Case(
        "MaxPool", IMAGE, attributes={"kernel_shape": [2, 2], "pads": [0, 1, 1, 0]}
    ),
    "MaxPool before": Case(
        "MaxPool",
        IMAGE,
        attributes={"kernel_shape": [3, 2], "pads": [1, 1, 0, 0], "strides": [2, 2]},
    ),
    "MaxPool spread": Case(
        "MaxPool",
        IMAGE,
        attributes={"kernel_shape": [2, 2], "pads": [1, 0, 0, 0], "dilations": [2, 1]},
    ),
    "MaxPool": Case("MaxPool", IMAGE, attributes={"kernel_shape": [2, 2], "strides": [2, 2]}),
    "MaxPool pads": Case(
        "MaxPool", IMAGE, attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    ),
    "MaxPool ceil": Case(
        "MaxPool", IMAGE, attributes={"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}
    ),
    "MaxPool ceil pads": Case(
        "MaxPool",
        IMAGE,
        attributes={
            "kernel_shape": [3, 3],
            "strides": [2, 2],
            "pads": [1, 1, 1, 1],
            "ceil_mode": 1,
        },
    ),
    "MaxPool same": Case(
        "MaxPool",
        (1, 2, 6, 6),
        attributes={"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ),
    "MaxPool 1d": Case("MaxPool", (1, 2, 7), attributes={"kernel_shape": [3], "strides": [2]}),
    "AveragePool": Case("AveragePool", IMAGE, attributes={"kernel_shape": [2, 2]}),
    "AveragePool after": Case(
        "AveragePool", IMAGE, attributes={"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}
    ),
    "AveragePool before": Case(
        "AveragePool",
        IMAGE,
        attributes={"kernel_shape": [3, 2], "pads": [1, 1, 0, 0], "strides": [2, 3]},
    ),
    "AveragePool pads": Case(
        "AveragePool", IMAGE, attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    ),
    "AveragePool counted": Case(
        "AveragePool",
        IMAGE,
        attributes={"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1},
    ),
    "AveragePool ceil": Case(
        "AveragePool", IMAGE, attributes={"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}
    ),
    "AveragePool same": Case(
        "AveragePool",
        (1, 2, 6, 6),
        attributes={"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ),
    "GlobalAveragePool": Case("GlobalAveragePool", IMAGE),
    "GlobalMaxPool": Case("GlobalMaxPool", IMAGE),
    "BatchNormalization": Case(
        "BatchNormalization", IMAGE, ("x", w(3), w(3), w(3), np.abs(w(3)) + 0.1)
    ),
    "LayerNormalization": Case("LayerNormalization", (1, 2, 4), ("x", w(4), w(4))),
    "LayerNormalization 1": Case("LayerNormalization", (1, 2, 4), ("x", w(2, 4)), {"axis": 1}),
    "GroupNormalization": Case(
        "GroupNormalization", (1, 4, 3, 3), ("x", w(4), w(4)), {"num_groups": 2}, 21
    ),
    "InstanceNormalization": Case("InstanceNormalization", IMAGE, ("x", w(3), w(3))),
    "LRN": Case("LRN", IMAGE, attributes={"size": 3, "alpha": 0.3, "bias": 2.0}),
    "LpNormalization": Case("LpNormalization", (1, 3, 4)),
    "LpNormalization 1": Case("LpNormalization", (1, 3, 4), attributes={"axis": 1, "p": 1}),
    "Softmax": Case("Softmax", (1, 3, 4)),
    "Softmax 1": Case("Softmax", (1, 3, 4), attributes={"axis": 1}),
    "Softmax 11": Case("Softmax", (1, 3, 4), opset=11),
    "LogSoftmax": Case("LogSoftmax", ("n", 4), attributes={"axis": 1}, opset=11),
    "Reshape": Case("Reshape", (1, 4, 3), ("x", ints(0, -1))),
    "Reshape away": Case("Reshape", (1, 4, 3), ("x", ints(4, 3))),
    "Reshape heads": Case("Reshape", ("n", 4, 6), ("x", ints(0, 4, 2, -1))),
    "Flatten": Case("Flatten", IMAGE),
    "Flatten 2": Case("Flatten", IMAGE, attributes={"axis": 2}),
    "Squeeze": Case("Squeeze", (1, 1, 4, 1), ("x", ints(1))),
    "Squeeze all": Case("Squeeze", (1, 1, 4, 1)),
    "Squeeze 11": Case("Squeeze", (1, 1, 4), attributes={"axes": [1]}, opset=11),
    "Unsqueeze": Case("Unsqueeze", (1, 4), ("x", ints(0, 3))),
    "Unsqueeze 11": Case("Unsqueeze", (1, 4), attributes={"axes": [2]}, opset=11),
    "Transpose": Case("Transpose", (1, 2, 3, 4), attributes={"perm": [0, 2, 3, 1]}),
    "Transpose away": Case("Transpose", (1, 2, 3), attributes={"perm": [2, 0, 1]}),
    "Transpose plain": Case("Transpose", (1, 2, 3)),
    "Concat": Case("Concat", (1, 2, 3), ("x", "x", w(1, 4, 3)), {"axis": 1}),
    "Concat rows": Case("Concat", (1, 3), ("x", w(2, 3)), {"axis": 0}),
    "Slice": Case("Slice", (1, 6, 5), ("x", ints(1, -4), ints(-1, 2**60), ints(1, 2), ints(2, 1))),
    "Slice back": Case(
        "Slice", (1, 6, 5), ("x", ints(-1, 4), ints(-(2**60), 0), ints(1, 2), ints(-2, -1))
    ),
    "Tile": Case("Tile", (1, 2, 3), ("x", ints(1, 3, 2))),
    "Tile rows": Case("Tile", (1, 3), ("x", ints(4, 1))),
    "TopK": Case("TopK", (1, 6, 2), ("x", ints(3)), {"axis": 1}, outputs=2),
    "TopK least": Case("TopK", ("n", 6), ("x", ints(2)), {"largest": 0}, outputs=2),
    "CumSum": Case("CumSum", (1, 4, 3), ("x", np.int64(1))),
    "Slice 9": Case("Slice", (1, 6), attributes={"starts": [1], "ends": [4], "axes": [1]}, opset=9),
    "Split": Case("Split", (1, 6), ("x", ints(2, 4)), {"axis": 1}, outputs=2),
    "Split even": Case("Split", (1, 6), attributes={"axis": 1}, outputs=3),
    "Split 18": Case(
        "Split", (1, 5), attributes={"axis": 1, "num_outputs": 2}, opset=18, outputs=2
    ),
    "Gather": Case("Gather", (1, 6, 2), ("x", ints(5, 0, -2)), {"axis": 1}),
    "Gather one": Case("Gather", (1, 6, 2), ("x", np.int64(3)), {"axis": 1}),
    "Gather table": Case("Gather", (1, 6), ("x", ints(0, 1, 2, 3).reshape(2, 2)), {"axis": 1}),
    "Gather row": Case("Gather", (1, 6), ("x", np.int64(0)), {"axis": 0}),
    "Expand": Case("Expand", (1, 1, 3), ("x", ints(4, 1))),
    "Pad": Case("Pad", IMAGE, ("x", ints(0, 0, 1, 2, 0, 0, 0, 1), np.float32(0.5))),
    "Pad channels": Case("Pad", IMAGE, ("x", ints(0, 1, 0, 0, 0, 2, 0, 0))),
    "Pad reflect": Case("Pad", IMAGE, ("x", ints(0, 0, 1, 2, 0, 0, 1, 2)), {"mode": "reflect"}),
    "Pad edge": Case("Pad", IMAGE, ("x", ints(0, 0, 1, 2, 0, 0, 1, 2)), {"mode": "edge"}),
    "Pad 10": Case("Pad", (1, 4), attributes={"pads": [0, 1, 0, 2], "value": 1.5}, opset=10),
    "Pad negative": Case("Pad", IMAGE, ("x", ints(0, 0, -1, 2, 0, 0, -2, -1), np.float32(0.5))),
    "Pad only cuts": Case("Pad", IMAGE, ("x", ints(0, 0, -1, 0, 0, -1, 0, -2))),
    "Resize linear": Case(
        "Resize", IMAGE, ("x", "", np.array([1, 1, 2, 2], np.float32)), {"mode": "linear"}
    ),
    "Resize corners": Case(
        "Resize",
        IMAGE,
        ("x", "", "", ints(1, 3, 9, 7)),
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    "Resize smaller": Case("Resize", IMAGE, ("x", "", "", ints(1, 3, 4, 7)), {"mode": "linear"}),
    "Resize line": Case(
        "Resize", (1, 3, 8), ("x", "", np.array([1, 1, 1.5], np.float32)), {"mode": "linear"}
    ),
    "Resize": Case(
        "Resize",
        IMAGE,
        ("x", "", np.array([1, 1, 2, 3], np.float32)),
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    "Resize sizes": Case("Resize", IMAGE, ("x", "", "", ints(1, 3, 12, 15))),
    "Upsample": Case("Upsample", IMAGE, ("x", np.array([1, 1, 2, 2], np.float32)), opset=9),
    "DepthToSpace": Case("DepthToSpace", (1, 8, 2, 3), attributes={"blocksize": 2, "mode": "CRD"}),
    "DepthToSpace DCR": Case("DepthToSpace", (1, 12, 2, 3), attributes={"blocksize": 2}),
    "SpaceToDepth": Case("SpaceToDepth", (1, 2, 4, 6), attributes={"blocksize": 2}),
    "Add": Case("Add", IMAGE, ("x", w(3, 1, 1))),
    "Add wide": Case("Add", (1, 3), ("x", w(2, 1))),
    "Add itself": Case("Add", (1, 3), ("x", "x")),
    "Sub": Case("Sub", (1, 3), (w(3), "x")),
    "Mul": Case("Mul", (1, 4, 3), ("x", np.float32(2.5))),
    "Div": Case("Div", (1, 4, 3), ("x", np.abs(w(1, 1, 3)) + 0.1)),
    "Pow": Case("Pow", (1, 3), ("x", np.float32(2))),
    "Pow whole": Case("Pow", (1, 3), ("x", ints(3))),
    "Pow each": Case("Pow", (1, 3), ("x", ints(1, 2, 3))),
    "Sum": Case("Sum", (1, 3), ("x", w(1, 3), "x")),
    "Mean": Case("Mean", (1, 3), ("x", w(1, 3), "x")),
    "Max": Case("Max", (1, 3), ("x", np.zeros(3, np.float32))),
    "Min": Case("Min", (1, 3), ("x", w(3))),
    "ReduceMean": Case("ReduceMean", IMAGE, attributes={"axes": [2, 3], "keepdims": 0}),
    "ReduceMean 18": Case("ReduceMean", IMAGE, ("x", ints(-1)), opset=18),
    "ReduceMean all": Case("ReduceMean", IMAGE, attributes={"keepdims": 0}),
    "ReduceSum": Case("ReduceSum", (1, 4, 3), ("x", ints(1)), {"keepdims": 0}),
    "ReduceMax": Case("ReduceMax", (1, 4, 3), attributes={"axes": [2]}),
    "ReduceL1": Case("ReduceL1", (1, 4, 3), attributes={"axes": [1]}),
    "ReduceL2": Case("ReduceL2", (1, 4, 3), attributes={"axes": [2], "keepdims": 0}),
    "ReduceL2 18": Case("ReduceL2", IMAGE, ("x", ints(-1, 1)), opset=18),
    "ReduceSumSquare": Case("ReduceSumSquare", (1, 4, 3), attributes={"axes": [1]}),
    "ReduceLogSumExp": Case("ReduceLogSumExp", (1, 4, 3), attributes={"axes": [-1]}),
    "ReduceMin": Case("ReduceMin", (1, 4, 3), attributes={"axes": [1], "keepdims": 0}),
}
STEPS = (3, 1, 3)
ONE, BOTH = (w(1, 8, 3), w(1, 8, 2), w(1, 16)), (w(2, 8, 3), w(2, 8, 2), w(2, 16))
CASES |= {
    "RNN": Case("RNN", STEPS, ("x", *(v[:, :2] for v in ONE[:2])), {"hidden_size": 2}),
    "RNN Relu": Case(
        "RNN",
        STEPS,
        ("x", *(v[:, :2] for v in BOTH[:2]), w(2, 4), "", w(2, 1, 2)),
        {"hidden_size": 2, "direction": "bidirectional", "activations": ["Relu", "Relu"]},
    ),
    "GRU": Case(
        "GRU",
        STEPS,
        ("x", ONE[0][:, :6], ONE[1][:, :6], ONE[2][:, :12]),
        {"hidden_size": 2, "linear_before_reset": 1},
    ),
    "GRU reset first": Case(
        "GRU",
        STEPS,
        ("x", ONE[0][:, :6], ONE[1][:, :6], ONE[2][:, :12], "", w(1, 1, 2)),
        {"hidden_size": 2, "direction": "reverse"},
    ),
    "LSTM": Case("LSTM", STEPS, ("x", *ONE), {"hidden_size": 2}, outputs=3),
    "LSTM both ways": Case(
        "LSTM",
        STEPS,
        ("x", *BOTH, "", w(2, 1, 2), w(2, 1, 2)),
        {"hidden_size": 2, "direction": "bidirectional"},
        outputs=3,
    ),
    "LSTM one step": Case("LSTM", (1, 1, 3), ("x", *ONE[:2]), {"hidden_size": 2}),
}
POSITIVE = {op: Case(op, (1, 4)) for op in ("Log", "Sqrt", "Reciprocal")}
COMPARED = {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Not"}
ONLY_FOLDED = {"ConstantOfShape", "Where", *COMPARED}


def test_every_operator_has_a_case():
    covered = {case.op for case in (*CASES.values(), *POSITIVE.values())}
    assert covered | ONLY_FOLDED == OPERATORS.keys()


def test_every_operator_stands_in_the_documentation():
    text = (Path(__file__).parents[3] / "docs" / "files.md").read_text()
    named = re.search(r"The operators that are read: (.*?)\.\n", text, re.DOTALL)
    assert named is not None
    assert named[1].replace("\n", " ").split(", ") == sorted({*OPERATORS, *_READ})


@pytest.mark.parametrize("name", CASES)
def test_an_operator_is_that_of_onnxruntime(tmp_path, name):
    _compare(save(CASES[name].model(), tmp_path), lambda x: x)


@pytest.mark.parametrize("name", POSITIVE)
def test_an_operator_on_positive_numbers(tmp_path, name):
    _compare(save(POSITIVE[name].model(), tmp_path), lambda x: x.abs() + 0.1)


def _compare(path, made) -> None:
    model, row = build(read_onnx(path))
    rows = made(torch.randn(3, *row, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        ours = model(rows)
    wanted = torch.from_numpy(truth(path, rows.numpy())).reshape(ours.shape)
    torch.testing.assert_close(ours, wanted, rtol=2e-5, atol=2e-6)


CAPTURED = """
    Gemm B, Conv uneven, MaxPool same, Reshape away, Slice, Concat, Softmax 1, Einsum, Einsum heads,
    MatMul vector right, MatMul heads times vector, ConvTranspose shape, MaxPool before,
    AveragePool after, Slice back, Tile, TopK, Pad negative, Resize linear, Sin, Cos, SpaceToDepth,
    ReduceL2, ReduceLogSumExp, RNN, LSTM, MatMul itself, Einsum itself, LpNormalization,
    ReduceSumSquare, Pow whole
"""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name.strip(), marks=[pytest.mark.slow] if number % 3 else [])
        for number, name in enumerate(CAPTURED.split(","))
    ],
)
def test_what_is_read_can_be_captured_and_bounded(tmp_path, name):
    model, row = build(read_onnx(save(CASES[name].model(), tmp_path)))
    rows = torch.rand(3, *row, generator=torch.Generator().manual_seed(0)) + 0.1
    graph = capture(model, rows)
    assert "aten" not in {node.op for node in graph.nodes}
    with torch.no_grad():
        torch.testing.assert_close(run(graph, rows), model(rows))
    within = interval_bounds(graph, Box(rows[0] - 0.01, rows[0] + 0.01))[graph.output]
    assert bool(within.low.isfinite().all() and within.high.isfinite().all())


BAD = {
    "training": Case("BatchNormalization", IMAGE, ("x", *[w(3)] * 4), {"training_mode": 1}, 15, 3),
    "an attribute": Case("Relu", (1, 4), attributes={"alpha": 2.0}),
    "an input too many": Case("Relu", (1, 4), ("x", w(1))),
    "a missing input": Case("Gemm", (1, 4)),
    "sizes": Case("Gemm", (1, 4), ("x", w(3, 3))),
    "a shape from the input": Case("Reshape", (1, 4), ("x", "x")),
    "an index": Case("Gather", (1, 4), ("x", ints(4)), {"axis": 1}),
    "slopes": Case("PRelu", (1, 3, 3), ("x", w(1, 1, 3))),
    "an axis": Case("Softmax", (1, 4), attributes={"axis": 7}),
    "a step": Case("Slice", (1, 4), ("x", ints(3), ints(0), ints(1), ints(0))),
    "an equation": Case("Einsum", (1, 4), ("x", w(4, 3)), {"equation": "bi->bi"}),
    "no order": Case("TopK", (1, 4), ("x", ints(2)), {"sorted": 0}, outputs=2),
    "too much is cut": Case("Pad", (1, 4), ("x", ints(0, -3, 0, -2))),
    "too large": Case("ConvTranspose", IMAGE, ("x", w(3, 2, 3, 3)), {"output_shape": [90, 90]}),
    "an even window": Case("LRN", IMAGE, attributes={"size": 2}),
    "running backwards": Case("CumSum", (1, 4), ("x", np.int64(1)), {"reverse": 1}),
    "peepholes": Case(
        "LSTM", STEPS, ("x", *ONE, "", "", "", w(1, 6)), {"hidden_size": 2}, outputs=3
    ),
    "other gates": Case(
        "GRU", STEPS, ("x", *ONE), {"hidden_size": 2, "activations": ["Tanh", "Tanh"]}
    ),
    "several sequences": Case("RNN", (5, 2, 3), ("x", *ONE[:2]), {"hidden_size": 2}),
    "repeats": Case("Tile", (1, 4), ("x", ints(2))),
    "rounded activations": Case(
        "DequantizeLinear", (1, 4), ("x", np.float32(0.1), np.float32(0.0))
    ),
    "a cast": Case("Cast", (1, 4), attributes={"to": 7}),
    "far too much": Case("Expand", (1, 4), ("x", ints(2**40, 1, 4))),
    "a padding": Case(
        "MaxPool",
        IMAGE,
        attributes={"kernel_shape": [2, 2], "pads": [0, 1, 1, 0], "ceil_mode": 1},
    ),
    "interpolation": Case(
        "Resize", IMAGE, ("x", "", np.array([1, 1, 2, 2], np.float32)), {"mode": "cubic"}
    ),
    "line from the corner": Case(
        "Resize",
        IMAGE,
        ("x", "", np.array([1, 1, 2, 2], np.float32)),
        {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_understood_is_refused_with_its_node(tmp_path, name):
    path = save(BAD[name].model(), tmp_path)
    with pytest.raises(Unsupported, match=rf"ONNX model refused: \(1\) y: {BAD[name].op}: "):
        build(read_onnx(path))
