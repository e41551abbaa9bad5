"""A row of the output, or of a value on the way, may be one number and no list of them."""

import functools
import math

import pytest
import torch
from tests.nets import crossed
from tests.traps.truth import Function
from torch import Tensor, nn

import holdfast
from holdfast.brackets.gain import gain_upper
from holdfast.brackets.lipschitz import lipschitz_graph
from holdfast.brackets.lower.pairs import slopes_lower
from holdfast.brackets.search import LipschitzOptions
from holdfast.graph.capture import capture
from holdfast.graph.ir import Graph
from holdfast.types import Ball

POINTS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()
ENDS = {
    "squeeze": lambda y: y.squeeze(-1),
    "select": lambda y: y[:, 0],
    "sum": lambda y: y.sum(1),
    "largest": lambda y: torch.cat([y, -y / 2], 1).amax(1),
    "on the way": lambda y: (y.sum(1) * 3.0).relu().unsqueeze(1).expand(-1, 2),
}


def net(end) -> nn.Module:
    torch.manual_seed(1)
    body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    return Function(lambda x: end(body(x)), body=body).double()


def column(y: Tensor) -> Tensor:
    return y.unsqueeze(1) if y.dim() == 1 else y


@functools.cache
def graphs(name: str) -> tuple[Graph, Graph]:
    """Return a net that ends so, and the same with a column for its single output."""
    end = ENDS[name]
    return capture(net(end), POINTS[:1]), capture(net(lambda y: column(end(y))), POINTS[:1])


@pytest.mark.parametrize(("name", "norm"), crossed(ENDS, (1.0, 2.0, math.inf)))
def test_the_bracket_is_that_of_the_net_with_a_column(name: str, norm: float) -> None:
    flat, wide = graphs(name)
    assert gain_upper(flat, norm) == gain_upper(wide, norm)
    slopes, others = (slopes_lower(graph, POINTS, POINTS.flip(0), norm) for graph in (flat, wide))
    assert torch.equal(slopes, others)
    for region in (None, Ball(POINTS[0], 0.5, norm)):
        found, wanted = (
            lipschitz_graph(graph, POINTS, LipschitzOptions(norm, region, 0.2))
            for graph in (flat, wide)
        )
        assert 0 <= found.lower <= wanted.upper and wanted.lower <= found.upper < math.inf


def test_a_regression_with_one_number_per_row_has_bounds_of_change() -> None:
    targets = torch.zeros(6, dtype=torch.float64)
    flat, wide = (
        holdfast.certify(net(end), POINTS, targets) for end in (ENDS["squeeze"], lambda y: y)
    )
    for change in ("output_change", "loss_change"):
        found, wanted = (getattr(each, change)(0.1) for each in (flat, wide))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=0.0)  # one node more
        assert float(found.min()) > 0 and float(found.max()) < math.inf
