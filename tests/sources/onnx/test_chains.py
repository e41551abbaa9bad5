"""Chains of small steps that would make huge values, and names that are given twice."""

import itertools

import numpy as np
import pytest
import torch

from holdfast.errors import InvalidInput, Unsupported
from holdfast.sources.onnx.build import build
from holdfast.sources.onnx.file import read_onnx

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from tests.sources.onnx.files import make_model, save
from tests.sources.onnx.test_file import constant, net, node

CONSTANTS = [
    constant("pads", [0, 0, 0, 2**30]),
    constant("size", [2**20, 2**20]),
    constant("wide", [2**30, 1]),
    constant("scales", np.float32([1, 1, 2, 2])),
    constant("shape", [1, 1, 2, 2]),
    constant("roi", np.zeros(0, np.float32)),
    constant("kernel", np.ones((1, 1, 1, 1), np.float32)),
]


def doubled(times: int, first: str = "x") -> list[onnx.NodeProto]:
    """Return nodes that double a value again and again, and add it up at the end."""
    names = [first, *(f"v{k}" for k in range(times))]
    steps = [node("Concat", f"{a} {a}", b, axis=-1) for a, b in itertools.pairwise(names)]
    return [*steps, node("ReduceSum", f"{names[-1]}", "s", keepdims=1), node("Add", "x s", "y")]


CHAINS = {
    "concat": doubled(24),
    "concat of constants": doubled(24, "pads"),
    "pad": [node("Pad", "x pads", "p"), node("ReduceSum", "p", "y")],
    "expand": [
        node("Expand", "x wide", "p"),
        node("Relu", "p", "q"),
        node("ReduceSum", "q", "y"),
    ],
    "constant of shape": [
        node("ConstantOfShape", "size", "p"),
        node("Relu", "p", "q"),
        node("ReduceSum", "q", "s"),
        node("Add", "x s", "y"),
    ],
    "resize": [
        node("Reshape", "x shape", "v0"),
        *(node("Resize", f"v{k} roi scales", f"v{k + 1}") for k in range(14)),
        node("ReduceSum", "v14", "y"),
    ],
    "padding inside a convolution": [
        node("Reshape", "x shape", "v"),
        node("Conv", "v kernel", "c", pads=[0, 0, 2**16, 2**16], strides=[2**16, 2**16]),
        node("ReduceSum", "c", "y"),
    ],
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_that_grows_beyond_all_measure_is_refused(tmp_path, name):
    model = make_model(CHAINS[name], ["n", 4], CONSTANTS)
    with pytest.raises(Unsupported, match="too large: more than"):
        build(read_onnx(save(model, tmp_path)))


def test_a_short_chain_is_read(tmp_path):
    built, row = build(read_onnx(save(make_model(doubled(6), [1, 4]), tmp_path)))
    x = torch.arange(4.0)[None]
    assert row == (4,) and torch.equal(built(x), x + 64 * 6)


def test_absurdly_many_constants_are_refused(tmp_path):
    model = net()
    first = model.graph.initializer[0]
    model.graph.initializer.extend([first] * 70_000)
    with pytest.raises(InvalidInput, match="70004 constants, more than 65536"):
        read_onnx(save(model, tmp_path))


def test_parts_that_a_split_does_not_give_are_refused(tmp_path):
    nodes = [node("Split", "x", "a b", axis=1, num_outputs=4), node("Add", "a b", "y")]
    with pytest.raises(Unsupported, match="another number of parts than the 2 outputs"):
        build(read_onnx(save(make_model(nodes, ["n", 4], opset=18), tmp_path)))


def twice_a_node(model):
    model.graph.node[1].output[0] = "h"


def twice_an_initialiser(model):
    model.graph.initializer.append(constant("w1", np.zeros((4, 6), np.float32)))


def over_an_initialiser(model):
    model.graph.node[1].output[0] = "b2"


def over_the_input(model):
    model.graph.node[1].output[0] = "x"


def twice_an_input(model):
    model.graph.input.append(model.graph.input[0])


def twice_an_attribute(model):
    model.graph.node[0].attribute.extend(
        [onnx.helper.make_attribute("transB", 0), onnx.helper.make_attribute("transB", 1)]
    )


def two_kinds_of_data(model):
    model.graph.initializer[0].float_data.extend([0.0] * 24)


def two_opsets(model):
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx", 11))


@pytest.mark.parametrize(
    "change",
    [
        twice_a_node,
        twice_an_initialiser,
        over_an_initialiser,
        over_the_input,
        twice_an_input,
        twice_an_attribute,
        two_kinds_of_data,
        two_opsets,
    ],
    ids=lambda change: change.__name__,
)
def test_what_readers_understand_differently_is_refused(tmp_path, change):
    model = net()
    build(read_onnx(save(model, tmp_path)))
    change(model)
    said = r"comes twice|several places|opset 0"
    with pytest.raises((InvalidInput, Unsupported), match=said) as refusal:
        read_onnx(save(model, tmp_path))
    assert isinstance(refusal.value, Unsupported) or "net.onnx" in str(refusal.value)
