"""Rows in windows against the same rows written out."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import holdfast
from holdfast.bounds.backward import adjoint, dot
from holdfast.bounds.linear import Relaxed, linear_bounds
from holdfast.bounds.regions import Regions
from holdfast.bounds.windows import Windows, is_even
from holdfast.graph.ir import Node
from holdfast.ops.geometry import ConvGeometry, conv
from holdfast.types import Ball


@st.composite
def convolutions(draw) -> tuple[Node, tuple[int, ...]]:
    """Return a convolution that pads with zeros in 1 or 2 dimensions, and its input's shape."""
    rank, groups = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2]))
    kernel, dilation, stride = (draw(st.integers(1, most)) for most in (3, 2, 2))
    around = draw(st.integers(0, 2))
    torch.manual_seed(draw(st.integers(0, 99)))
    outputs, size = 2 * draw(st.integers(1, 2)), dilation * (kernel - 1) + draw(st.integers(1, 5))
    weight = torch.randn(outputs, 2 // groups, *[kernel] * rank).double()
    pads = ((around, around),) * rank
    geometry = ConvGeometry((stride,) * rank, pads, (dilation,) * rank, groups)
    params = {"weight": weight, "bias": torch.randn(outputs).double(), "geometry": geometry}
    shape = (2, *[size] * rank)
    result = conv(torch.zeros(1, *shape).double(), weight, None, geometry)
    return Node("conv", "conv", ("x",), params, tuple(result.shape[1:])), shape


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.data())
def test_a_window_is_read_through_a_convolution_like_its_row(case, data) -> None:
    node, shape = case
    assert is_even(node.params["geometry"])
    count = math.prod(node.shape)
    places = torch.tensor(
        [[data.draw(st.integers(0, count - 1)) for _ in range(3)] for _ in range(2)]
    )
    windows = Windows.of_entries(places, node.shape)
    full = torch.zeros(2, 3, count).double().scatter(2, places[:, :, None], 1.0)
    full = full.reshape(2, 3, *node.shape)
    assert torch.equal(windows.dense(), full)
    values = torch.randn(2, *node.shape).double()
    assert torch.equal(dot(windows, values), dot(full, values))
    back = windows.through(node.params["weight"], node.params["geometry"], shape)
    (wanted,) = adjoint(node, full, [shape])
    torch.testing.assert_close(back.dense(), wanted, rtol=0, atol=1e-12)
    values = torch.randn(2, *shape).double()
    torch.testing.assert_close(dot(back, values), dot(wanted, values), rtol=0, atol=1e-12)
    # What reaches beyond the node is zero, so that norms of windows are norms of rows.
    torch.testing.assert_close(back.flatten(2).norm(dim=2), wanted.flatten(2).norm(dim=2))


def test_bounds_in_windows_are_those_of_rows_written_out(monkeypatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.SiLU(),
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 2, 2), nn.Tanh(),
        nn.Flatten(), nn.Linear(18, 3),
    ).double().eval()  # fmt: skip
    x = torch.randn(2, 1, 9, 9).double()
    graph = holdfast.capture(model, x[:1])
    for norm in (1.0, 2.0, math.inf):
        balls = [Ball(row, 0.1, norm) for row in x]
        got = linear_bounds(graph, balls)
        with monkeypatch.context() as patch:
            patch.setattr(Windows, "worth_it", lambda _: False)
            wanted = linear_bounds(graph, balls)
        torch.testing.assert_close(got.low, wanted.low, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(got.high, wanted.high, rtol=1e-10, atol=1e-10)


def test_regions_want_entries_of_their_own() -> None:
    """What one region needs does not change the bounds of another."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 2))
    x = torch.randn(4, 3).double()
    graph = holdfast.capture(model.double().eval(), x)
    radius = torch.tensor([[0.0], [0.01], [0.5], [3.0]]).double()
    together = Relaxed(graph, Regions(x, radius, 2.0)).bounds()
    for k in range(4):
        alone = Relaxed(graph, Regions(x[k : k + 1], radius[k : k + 1], 2.0)).bounds()
        torch.testing.assert_close(together.low[k], alone.low[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(together.high[k], alone.high[0], rtol=1e-12, atol=1e-12)
