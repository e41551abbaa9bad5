"""Forward enclosures of values and gradients beside exact values."""

import math
from collections.abc import Callable
from fractions import Fraction

import mpmath
import pytest
import torch
from tests.brackets.branching.test_tree import NORMS, graph_of
from torch import Tensor

import holdfast
from holdfast.bounds.forward import Forward
from holdfast.brackets.branching.walls import ExactValues, Maps
from holdfast.graph.comparisons import with_pairs
from holdfast.graph.ir import Graph, Node


def exact_values(graph: holdfast.Graph) -> Callable[[Tensor], list[Fraction]]:
    """Return a network of linear pieces as a function in exact numbers."""
    maps, none = Maps(graph), torch.zeros(0, dtype=torch.int64)

    def values(point: Tensor) -> list[Fraction]:
        rows = ExactValues(maps, point, none, {}).output()
        return [Fraction(row.integers[-1], row.bottom) for row in rows]

    return values


def curved_values(graph: holdfast.Graph) -> Callable[[Tensor], list[mpmath.mpf]]:
    """Return linear layers, GELUs and hard tanhs one after the other, with 400 digits."""

    def gelu(z: mpmath.mpf) -> mpmath.mpf:
        far = abs(z) > 100  # there it is 0 or z but for 1e-2000
        return max(z, 0) if far else z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2

    scalars = {"gelu": gelu, "hardtanh": lambda z: max(min(z, 1), -1)}

    def values(point: Tensor) -> list[mpmath.mpf]:
        found = mpmath.matrix(point.tolist())
        for node in graph.nodes[1:]:
            if node.op == "linear":
                weight, bias = (mpmath.matrix(node.params[k].tolist()) for k in ("weight", "bias"))
                found = weight * found + bias
            elif node.op == "shift":
                found = found + mpmath.matrix(node.params["offset"].tolist())
            else:
                found = found.apply(scalars[node.op])
        return list(found)

    return values


def hold(graph: holdfast.Graph, low: Tensor, high: Tensor, values: Callable) -> int:
    """Check values, and slopes: none leaves a box around all gradients, or is above their length.

    Returns:
        How many of the enclosures of gradients are finite.
    """
    moving = torch.arange(low.shape[1])
    found, *others = (Forward(graph, norm).read(low, high, moving, {}) for norm in NORMS)
    lengths = [found.length.tolist(), *(other.length.tolist() for other in others)]
    below, above = (end.tolist() for end in found.range())
    least, most = (end.tolist() for end in (found.jacobian, found.reach))
    finite = 0
    for k, (a, b) in enumerate(zip(low, high, strict=True)):
        first, second = (torch.clamp(a + torch.rand_like(a) * (b - a), a, b) for _ in range(2))
        here = values(first)
        for j, value in enumerate(here):
            assert below[k][j] <= value <= above[k][j]
        gaps = [abs(z - y) for y, z in zip(here, values(second), strict=True)]
        steps = [
            abs(Fraction(x) - Fraction(y))
            for x, y in zip(first.tolist(), second.tolist(), strict=True)
        ]
        for norm, known in zip(NORMS, lengths, strict=True):
            power = {1.0: sum(steps), math.inf: max(steps)}.get(norm, sum(x * x for x in steps))
            for gap, length in zip(gaps, known[k], strict=True):
                if math.isfinite(length):
                    degree = 2 if norm == 2.0 else 1
                    step = power if isinstance(gap, Fraction) else exact_number(power)
                    assert gap**degree <= type(gap)(length) ** degree * step
        for i, (start, end) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
            there = first.clone()
            there[i] = end
            for j, (y, z) in enumerate(zip(here, values(there), strict=True)):
                middle, reach = least[k][i][j], most[k][i][j]
                if not math.isfinite(middle) or not math.isfinite(reach) or start == end:
                    continue
                step, finite = abs(Fraction(end) - Fraction(start)), finite + 1
                step = step if isinstance(y, Fraction) else exact_number(step)
                middle, reach = (type(y)(part) * step for part in (middle, reach))
                assert abs((z - y) * (1 if end > start else -1) - middle) <= reach
    return finite


def exact_number(value: Fraction) -> mpmath.mpf:
    return mpmath.mpf(value.numerator) / value.denominator


@pytest.mark.parametrize(
    "name",
    [
        "relu",
        "maxmin",
        "residual",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("steep", "averages")),
    ],
)
def test_forms_hold_every_value_and_gradient(name: str) -> None:
    torch.manual_seed(2)
    graph = with_pairs(graph_of(name).double())
    low = torch.randn(30, 2, dtype=torch.float64)
    high = low + torch.rand(30, 1) * torch.tensor([1.0, 0.1])
    assert hold(graph, low, high, exact_values(graph))


def test_what_units_have_in_common_cancels() -> None:
    """a = relu(x) + relu(y) is within [0, 2], and a - a is 0, not within 2 of it."""
    weight = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).double()
    total = torch.tensor([[1.0, 1.0]]).double()
    nodes = (
        Node("x", "input", shape=(2,)),
        Node("r", "relu", ("x",), shape=(2,)),
        Node("s", "linear", ("r",), {"weight": weight, "bias": None}, (2,)),
        Node("y", "linear", ("s",), {"weight": total, "bias": None}, (1,)),
    )
    ends = torch.ones(1, 2, dtype=torch.float64)
    found = Forward(Graph(nodes, "y", {}), 2.0).read(-ends, ends, torch.arange(2), {})
    assert max(float(end.detach().abs()) for end in found.range()) < 1e-12


def layers(size: float, curved: bool) -> holdfast.Graph:
    """Return a net of which one layer's weights are drawn times a number, the next over it."""
    generator = torch.Generator().manual_seed(2)
    bent = ("gelu", {"approximate": "none"}) if curved else ("leaky_relu", {"negative_slope": 0.25})
    last = ("hardtanh", {"low": -1.0, "high": 1.0}) if curved else ("relu", {})
    nodes, widths = [Node("x", "input", shape=(2,))], (2, 5, 4, 2)
    for k, (scale, after) in enumerate(((size, bent), (1.0 / size, last), (1.0, None))):
        shape = (widths[k + 1], widths[k])
        weight = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        bias = torch.randn(shape[0], generator=generator, dtype=torch.float64)
        params = {"weight": weight, "bias": bias}
        nodes.append(Node(f"linear{k}", "linear", (nodes[-1].name,), params, shape[:1]))
        if after is not None:
            nodes.append(Node(f"bent{k}", after[0], (nodes[-1].name,), after[1], shape[:1]))
    offset = {"offset": torch.tensor([0.1, -3.0], dtype=torch.float64)}
    nodes.append(Node("moved", "shift", (nodes[-1].name,), offset, shape[:1]))
    return Graph(tuple(nodes), nodes[-1].name, {}, precision=torch.float64)


@pytest.mark.parametrize("size", [1.0, 1e-300, 1e-36, 1e36, 1e150, 1e300])
@pytest.mark.parametrize("curved", [False, True])
def test_forms_hold_over_scales_of_weights(curved: bool, size: float) -> None:
    torch.manual_seed(2)
    graph = layers(size, curved)
    exact = curved_values(graph) if curved else exact_values(graph)
    finite = 0
    for reach in (1.0, min(1.0 / size, 1e300), 1e300):
        low = torch.randn(4, 2, dtype=torch.float64) * reach
        high = low + 0.5 * reach * torch.rand(4, 1, dtype=torch.float64)
        with mpmath.workdps(400):
            finite += hold(graph, low, high, exact)
    assert finite
