"""Sorts and maxima written out as comparisons: the same values, and as few units as can be."""

import itertools

import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.graph.comparisons import exchanges, with_groups, with_pairs
from holdfast.graph.ir import Graph
from holdfast.graph.walk import CONCRETE, lift, read, run

FUNCTIONS = {
    "sort": lambda x: x.sort(2).values,
    "descending": lambda x: x.sort(1, descending=True).values,
    "first dimension": lambda x: x.flatten(1).reshape(-1, 8, 3, 2).sort(1).values,
    "maximum of two": lambda x: torch.maximum(x[:, :2], x[:, 2:4]),
    "one group": lambda x: x.amax((1, 2, 3)),
    "kept dimensions": lambda x: x.amax((1, 3), keepdim=True),
    "outer and inner": lambda x: x.amax((1, 3)),
    "max of one": lambda x: x[:, :1].amax(1),
    "pool": nn.MaxPool2d(2),
    "padded pool": nn.MaxPool2d((3, 2), (1, 2), (1, 0)),
    "dilated pool": nn.MaxPool2d(2, 1, 1, dilation=2),
    "ceil pool": nn.MaxPool2d(2, 2, ceil_mode=True),
}


class Function(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.function = FUNCTIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def captured(name: str) -> Graph:
    return holdfast.capture(Function(name).eval(), torch.zeros(1, 4, 4, 3)).double()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_value_stays(name: str) -> None:
    graph = captured(name)
    torch.manual_seed(0)
    points = torch.randn(30, 4, 4, 3, dtype=torch.float64)
    points[10:] = points[10:].round()  # with ties
    wanted = read(graph, CONCRETE, lift(graph, points))
    for written in (with_groups(graph), with_pairs(graph), with_pairs(with_groups(graph))):
        found = read(written, CONCRETE, lift(written, points))
        assert all(torch.equal(found[name], value) for name, value in wanted.items())
        assert len({node.name for node in written.nodes}) == len(written.nodes)
        assert all(tuple(found[node.name].shape[1:]) == node.shape for node in written.nodes)
    left = {"sort", "max_pool", "amax"}
    assert left.isdisjoint(node.op for node in with_pairs(graph).nodes)
    assert (left - {"amax"}).isdisjoint(node.op for node in with_groups(graph).nodes)


@pytest.mark.parametrize("length", range(1, 9))
def test_exchanges_sort_everything(length: int) -> None:
    """A network that sorts zeros and ones sorts everything (Knuth, theorem 5.3.4Z)."""
    pairs = list(exchanges(length))
    assert all(0 <= low < high < length for low, high in pairs)
    for entries in itertools.product((0, 1), repeat=length):
        lanes = list(entries)
        for low, high in pairs:
            lanes[low], lanes[high] = sorted((lanes[low], lanes[high]))
        assert lanes == sorted(entries)
    assert len(pairs) == (0, 1, 3, 5, 9, 12, 16, 19)[length - 1]


class Ends(nn.Module):
    """Both ends of one pair, called for in some order."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        a, b = x[:, :2], x[:, 2:]
        calls = (torch.max(a, b), torch.min(b, a), torch.maximum(b, a), torch.minimum(a, b))
        return torch.cat([calls[k] for k in self.order], 1)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (2, 3), (3, 0), (0, 1, 2, 3)])
def test_both_ends_of_a_pair_are_one_node(order: tuple[int, ...]) -> None:
    graph = holdfast.capture(Ends(order).eval(), torch.zeros(1, 4))
    assert [node.op for node in graph.nodes].count("compare") == 1
    x = torch.randn(20, 4)
    assert torch.equal(run(graph, x), Ends(order)(x))
