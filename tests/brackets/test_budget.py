"""What a method takes is estimated before it starts, and what does not fit is said."""

import math

import torch
from torch import nn

import holdfast
from holdfast.bounds.linear import Relaxed
from holdfast.bounds.regions import Regions
from holdfast.brackets.budget import affords, norms_products, products, products_a_second
from holdfast.brackets.semidefinite import lipsdp_upper, row_bounds_upper


def test_products_are_those_of_the_layers() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(75, 4))
    graph = holdfast.capture(net.eval(), torch.zeros(1, 2, 5, 5))
    exact = 3 * 25 * 18 + 4 * 75
    assert exact <= products(graph) <= 1.2 * exact


def test_what_does_not_fit_is_said() -> None:
    told: list[str] = []
    assert affords("it", 1.0, 1.0, 1.0, told.append)
    assert not told
    assert not affords("it", 1e3 * products_a_second(), 1.0, 1.0, told.append)
    assert not affords("it", 1.0, 1e12, 1.0, told.append)
    assert "1 s were left" in told[0]
    assert "GB" in told[1]


def test_a_net_too_large_for_lipsdp_has_a_note() -> None:
    """No clock decides: its 4000 activations are more than LipSDP takes."""
    net = nn.Sequential(nn.Linear(3, 4000), nn.ReLU(), nn.Linear(4000, 2)).eval()
    bracket = holdfast.lipschitz(net, torch.zeros(1, 3), seconds=0.5)
    assert 0.0 < bracket.lower <= bracket.upper < math.inf
    assert any(note.startswith("LipSDP was left out") for note in bracket.notes)


def test_norms_that_take_long_are_left_out_where_few_entries_move() -> None:
    """A first bound on a box then comes from affine forms, without the norms of its layers."""
    wide = nn.Linear(2000, 2000, bias=False)
    nn.init.eye_(wide.weight)  # the product of all norms is then known
    net = nn.Sequential(nn.Linear(2, 2000), nn.ReLU(), wide, nn.Linear(2000, 1)).eval()
    box = holdfast.Box(torch.zeros(2), torch.full((2,), 0.1))
    bracket = holdfast.lipschitz(net, torch.zeros(1, 2), region=box, seconds=0.0)
    assert 0.0 < bracket.lower <= bracket.upper
    assert bracket.upper_by == "affine forms on the region"
    assert any(note.startswith("the product of layer gains was left out") for note in bracket.notes)
    first, _, _, last = net
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    ends = (torch.linalg.matrix_norm(layer.weight.detach(), 2) for layer in (first, last))
    assert bracket.upper <= 1.0001 * math.prod(map(float, ends))


def test_small_norms_take_fewer_products() -> None:
    nets = (nn.Sequential(nn.Conv2d(1, k, 3), nn.Flatten(), nn.Linear(36 * k, 9)) for k in (2, 8))
    graphs = (holdfast.capture(net.eval(), torch.zeros(1, 1, 8, 8)) for net in nets)
    counts = [[norms_products(graph, norm) for norm in (1.0, 2.0)] for graph in graphs]
    assert all(0.0 < small < large for small, large in zip(*counts, strict=True))


def test_nothing_is_begun_without_time() -> None:
    graph = holdfast.capture(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(),
                             torch.zeros(1, 3))  # fmt: skip
    told: list[str] = []
    assert not list(lipsdp_upper(graph, 1e-3, 0.0, None, told.append))
    assert not list(row_bounds_upper(graph, math.inf, 0.0, None, told.append))
    assert len(told) == 2


def test_intervals_that_time_did_not_tighten_hold() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 2))
    graph = holdfast.capture(net.double().eval(), torch.zeros(1, 4).double())
    regions = Regions.of(holdfast.Ball(torch.zeros(4).double(), 0.5))
    early, late = Relaxed(graph, regions, end=0.0), Relaxed(graph, regions)
    for name, interval in late.intervals.items():
        assert bool((early.intervals[name].low <= interval.low).all())
        assert bool((early.intervals[name].high >= interval.high).all())
    rows = torch.eye(2, dtype=torch.float64)
    points = torch.nn.functional.normalize(torch.randn(500, 4).double()) * 0.4999
    lowest = net(points).amin(0)
    assert bool((early.bounds(rows).low[0] <= lowest).all())
