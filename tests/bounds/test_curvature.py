"""What secants differ by from the map at a point: sampled for every operation."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.bounds.zoo import ACTIVATIONS, activation_nodes
from torch import Tensor

from holdfast.bounds.curvature import linearised
from holdfast.graph.ir import Node
from holdfast.graph.running import ONE_STEP, Approximate
from holdfast.norms.node import OperatorNorms
from holdfast.rounding import gamma, lengths_down, lengths_up, rows_up

Shapes = tuple[tuple[int, ...], ...]


def _norm(
    op: str, row: tuple[int, ...], eps: float = 1e-5, /, **settings: object
) -> tuple[Node, Shapes]:
    torch.manual_seed(3)
    size = row[0] if op == "group_norm" else row[-1]
    weight, bias = torch.randn(2, size, dtype=torch.float64)
    params = {"weight": weight, "bias": None if op == "rms_norm" else bias, "eps": eps, **settings}
    return Node("y", op, ("x",), params, row), (row,)


def _other(op: str, *shapes: tuple[int, ...], **params: object) -> tuple[Node, Shapes]:
    row = (*shapes[0][:-1], shapes[-1][-1])
    return Node("y", op, ("x", "z")[: len(shapes)], params, row), shapes


def _activation(name: str) -> tuple[Node, Shapes]:
    node = activation_nodes()[name]
    params = {
        k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v
        for k, v in node.params.items()
    }
    return replace(node, params=params), ((8,),)


def _masked() -> tuple[Node, Shapes]:
    mask = torch.tensor([[True, True, True, False], [True, False, False, False], [True] * 4])
    return _other("softmax", (3, 4), dim=2, mask=mask[None])


OPERATIONS: dict[str, Callable[[], tuple[Node, Shapes]]] = {
    **{name: lambda name=name: _activation(name) for name in ACTIVATIONS},
    "power": lambda: _other("power", (8,), exponent=3),
    "exp": lambda: _other("exp", (8,)),
    "softmax": lambda: _other("softmax", (3, 4), dim=2),
    "softmax of two": lambda: _other("softmax", (2, 3), dim=1),
    "masked softmax": _masked,
    "layer norm": lambda: _norm("layer_norm", (3, 5), shape=(5,)),
    "layer norm, large eps": lambda: _norm("layer_norm", (3, 5), 0.5, shape=(5,)),
    "layer norm of two": lambda: _norm("layer_norm", (3, 2), 0.1, shape=(2,)),
    "rms norm": lambda: _norm("rms_norm", (3, 5), shape=(5,)),
    "rms norm of one": lambda: _norm("rms_norm", (3, 1), 0.3, shape=(1,)),
    "group norm": lambda: _norm("group_norm", (4, 3), groups=2),
    "product": lambda: _other("product", (6,), (6,)),
    "matmul": lambda: _other("matmul", (2, 3, 5), (2, 5, 4)),
}


def _inside(point: Tensor, blocks: Tensor, radii: Tensor, seed: int, count: int) -> Tensor:
    """Return points whose blocks are within radii of those of one, half of them on the edge.

    Args:
        point: [1, *shape].
        blocks: [1, *shape], number of the block of each entry.
        radii: [blocks].
        seed: Of the draw.
        count: How many.
    """
    generator = torch.Generator().manual_seed(seed)
    index = blocks.flatten().long()
    noise = torch.randn(count, len(index), generator=generator, dtype=torch.float64)
    noise[::4] = noise[::4].sign()
    squares = torch.zeros(count, len(radii), dtype=torch.float64)
    lengths = squares.index_add(1, index, noise.square()).sqrt()
    share = torch.rand(count, len(radii), generator=generator, dtype=torch.float64)
    share[::2] = 1.0
    scale = share * radii / lengths * (1.0 - 1e-12)
    return point + (noise * scale[:, index]).reshape(count, *point.shape[1:])


def _checked(name: str, size: float, seed: int, count: int = 500) -> float:
    """Compare sampled secants near a random point; return the largest share of the bound."""
    node, shapes = OPERATIONS[name]()
    torch.manual_seed(seed)
    points = [torch.randn(1, *shape, dtype=torch.float64) for shape in shapes]
    step = linearised(node, points, OperatorNorms(2.0))
    assert step is not None
    assert step.curvature is not None
    curvature = step.curvature
    first, second, reach, radii = [], [], [], []
    for k, point in enumerate(points):
        wide = curvature.parts[k](torch.arange(point.numel()).reshape(point.shape))
        owner = torch.empty(point.numel(), dtype=torch.long)
        for block, entries in enumerate(wide[0]):
            owner[entries] = block
        reach.append(size * (0.5 + torch.rand(wide.shape[1], dtype=torch.float64)))
        draws = [2 * seed + end + 17 * k for end in range(2)]
        ends = [_inside(point, owner, reach[k], draw, count) for draw in draws]
        ends[1][1::2] = ends[0][1::2] + 1e-3 * (ends[1][1::2] - ends[0][1::2])
        first.append(ends[0])
        second.append(ends[1])
        distances = [lengths_up(curvature.radii[k](end - point)).amax(0) for end in ends]
        radii.append(torch.maximum(*distances))
    spread = curvature.spread(radii, reach)
    values = [
        ONE_STEP[node.op](node, [Approximate(part, torch.zeros_like(part)) for part in ends])
        for ends in (first, second)
    ]
    moved = [b - a for a, b in zip(first, second, strict=True)]
    line = step.push(moved)
    # All that the comparison itself rounds is taken off what was seen.
    size_of = sum(lengths_up(part.flatten(1)) for part in moved)
    sizes = [part.value.abs() for part in values]
    off = rows_up(sum(part.error for part in values) + 1e-15 * (sizes[0] + sizes[1]), 4)
    off = off + rows_up(4.0 * gamma(step.terms) * step.absolute * size_of, 8).reshape(
        -1, *[1] * (line.dim() - 1)
    )
    seen = (values[1].value - values[0].value - line).abs() - off - 1e-15 * line.abs()
    weight = 1.0 if curvature.weight is None else curvature.weight.abs().clamp(min=1e-300)
    left = lengths_down(curvature.result(seen.clamp(min=0.0) / weight))
    right = sum(bound * lengths_up(curvature.parts[k](moved[k])) for k, bound in enumerate(spread))
    right = right.nan_to_num(math.inf, math.inf)  # of what does not move, where nothing is known
    assert bool((left <= right).all())
    return float((left / right.clamp(min=1e-300)).max())


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_secant_differs_by_more(name: str) -> None:
    for size in (1e-3, 0.05, 0.6, 4.0):
        for seed in range(3):
            assert _checked(name, size, seed) <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_secant_of_many_differs_by_more(name: str) -> None:
    for size in (1e-3, 0.01, 0.1, 0.3, 1.0, 3.0):
        for seed in range(100, 112):
            assert _checked(name, size, seed, 10_000) <= 1.0


@pytest.mark.parametrize(
    ("name", "share"),
    [("gelu", 0.8), ("layer norm", 0.5), ("rms norm", 0.5), ("softmax", 0.3), ("product", 0.8)],
)
def test_the_bounds_are_nearly_reached(name: str, share: float) -> None:
    assert max(_checked(name, 0.01, seed) for seed in range(6)) >= share


def test_the_curvature_of_a_normalisation_is_reached_at_its_steepest_angle() -> None:
    """In the plane, without eps, the second derivative of x / ||x|| is 2 / sqrt 3 at most."""
    angle = torch.tensor(math.acos(3.0**-0.5))
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    u = torch.tensor([[float(angle.cos()), float(angle.sin())]], dtype=torch.float64)

    def jacobian(at: Tensor) -> Tensor:
        found = torch.autograd.functional.jacobian(lambda p: p / p.norm(), at[0])
        assert isinstance(found, Tensor)
        return found

    turned = (jacobian(x + 1e-6 * u) - jacobian(x - 1e-6 * u)) / 2e-6
    assert abs(float(torch.linalg.matrix_norm(turned, 2)) - 2.0 / math.sqrt(3.0)) < 1e-6


def test_what_has_no_map_is_left_out() -> None:
    node = Node("y", "sort", ("x",), {"dim": 1, "descending": False}, (3,))
    assert linearised(node, [torch.randn(1, 3).double()], OperatorNorms(2.0)) is None
