"""Slices, margins, pools and transposed convolutions, drawn at random, beside onnxruntime."""

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from holdfast.errors import Unsupported
from holdfast.sources.onnx.build import build
from holdfast.sources.onnx.file import read_onnx

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.sources.onnx.files import Case, save, truth

FEW = settings(max_examples=30, deadline=None)
SIZE = (1, 2, 5, 6)


def agrees(case: Case, folder) -> None:
    """Compare with onnxruntime; only what it refuses itself may be refused."""
    path = save(case.model(), folder)
    rows = torch.randn(2, *case.shape[1:], generator=torch.Generator().manual_seed(1))
    try:
        theirs = truth(path, rows.numpy())
    except Exception:
        assume(False)
    ours = build(read_onnx(path))[0](rows).detach()
    assert theirs.size == ours.numel()
    np.testing.assert_allclose(ours.numpy(), theirs.reshape(ours.shape), rtol=2e-5, atol=2e-6)


PLACE = st.integers(-9, 9)


@FEW
@given(st.tuples(PLACE, PLACE), st.tuples(PLACE, PLACE), st.tuples(PLACE, PLACE))
def test_slices(tmp_path_factory, starts, ends, steps):
    assume(all(steps))
    inputs = [np.array(v, dtype=np.int64) for v in (starts, ends, (2, 3), steps)]
    agrees(Case("Slice", SIZE, ("x", *inputs)), tmp_path_factory.mktemp("slices"))


@FEW
@example([0, 0, 0, 1], "edge")
@given(
    st.lists(st.integers(-2, 2), min_size=4, max_size=4),
    st.sampled_from(["constant", "edge", "reflect"]),
)
def test_margins(tmp_path_factory, pads, mode):
    every = np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], dtype=np.int64)
    inputs = ("x", every, np.float32(0.7)) if mode == "constant" else ("x", every)
    agrees(Case("Pad", SIZE, inputs, {"mode": mode}), tmp_path_factory.mktemp("pads"))


@FEW
@given(
    st.sampled_from(["MaxPool", "AveragePool"]),
    st.tuples(st.integers(2, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.lists(st.integers(0, 1), min_size=4, max_size=4),
    st.booleans(),
)
def test_pools(tmp_path_factory, op, kernel, strides, pads, counted):
    assume(kernel[1] > 1 or not (pads[1] or pads[3]))  # a window of padding alone has no entries
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads}
    if op == "AveragePool":
        attributes["count_include_pad"] = int(counted)
    agrees(Case(op, SIZE, attributes=attributes), tmp_path_factory.mktemp("pools"))


@FEW
@given(
    st.tuples(st.integers(2, 4), st.integers(2, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER"]),
)
def test_transposed_convolutions_of_a_stated_shape(tmp_path_factory, kernel, strides, less, auto):
    whole = [s * (n - 1) + k for n, k, s in zip(SIZE[2:], kernel, strides, strict=True)]
    wanted = [size - cut for size, cut in zip(whole, less, strict=True)]
    weight = np.random.default_rng(0).normal(size=(2, 3, *kernel)).astype(np.float32)
    attributes = {"strides": strides, "output_shape": wanted, "auto_pad": auto}
    case = Case("ConvTranspose", SIZE, ("x", weight), attributes)
    agrees(case, tmp_path_factory.mktemp("transposed"))


@FEW
@given(
    st.tuples(st.integers(2, 12), st.integers(2, 12)),
    st.sampled_from(["half_pixel", "align_corners"]),
)
def test_images_between_pixels(tmp_path_factory, sizes, how):
    attributes = {"mode": "linear", "coordinate_transformation_mode": how}
    inputs = ("x", "", "", np.array([1, 2, *sizes], dtype=np.int64))
    agrees(Case("Resize", SIZE, inputs, attributes), tmp_path_factory.mktemp("resize"))


def test_a_pool_that_cannot_be_read_says_why(tmp_path):
    attributes = {"kernel_shape": [2, 2], "pads": [0, 0, 1, 0], "ceil_mode": 1, "strides": [2, 2]}
    path = save(Case("MaxPool", SIZE, attributes=attributes).model(), tmp_path)
    with pytest.raises(Unsupported, match=r"ceil_mode with pads \[\(0, 1\), \(0, 0\)\]"):
        build(read_onnx(path))
