"""The facts in every record, against the operation itself, in exact numbers.

The reference for an affine operation is its matrix in rational numbers: stored coefficients are
read off with unit vectors, computed ones are computed anew with 60 digits.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import mpmath
import pytest
import torch
from tests.ops.catalogue import CATALOGUE, USES, draw
from torch import Tensor

from holdfast.bounds.float32 import execution_error
from holdfast.errors import InternalError
from holdfast.graph.ir import Graph, Node
from holdfast.graph.running import ONE_STEP, Approximate
from holdfast.ops import OPS, Kind, rules
from holdfast.ops.geometry import ConvGeometry
from holdfast.ops.record import Op, Params

Matrix = list[list[Fraction]]

AFFINE = [use for use in USES if OPS[use[0]].kind is Kind.AFFINE]
WIRING = [use for use in USES if OPS[use[0]].kind is Kind.WIRING]
SCALAR = [use for use in USES if OPS[use[0]].kind is Kind.SCALAR]


def named(uses: Sequence[tuple]) -> list[str]:
    return [name for name, _, _ in uses]


def basis(shape: Sequence[int]) -> Tensor:
    count = math.prod(shape)
    return torch.eye(count, dtype=torch.float64).reshape(count, *shape)


def node_of(name: str, params: Params, shapes: Sequence[Sequence[int]]) -> Node:
    zeros = [torch.zeros(1, *shape, dtype=torch.float64) for shape in shapes]
    return Node(name, name, ("x",), params, tuple(OPS[name].run(zeros, params).shape[1:]))


def executed_matrix(name: str, params: Params, shape: Sequence[int]) -> Tensor:
    """Return the matrix of the linear part as float64 computes it, [outputs, inputs]."""
    op, rest = OPS[name].linear(params)
    return OPS[op].run([basis(shape)], rest).flatten(1).T


def exact_matrix(name: str, params: Params, shape: Sequence[int]) -> Matrix:
    """Return the matrix in rational numbers."""
    rows = executed_matrix(name, params, shape).tolist()
    if name in ("mean", "avg_pool", "adaptive_avg_pool"):
        return [[Fraction(1, round(1 / c)) if c else Fraction(0) for c in row] for row in rows]
    if name == "batch_norm":
        factors = [exact_factor(params, channel) for channel in range(shape[0])]
        per_channel = math.prod(shape[1:])
        return [
            [factors[i // per_channel] if i == j else Fraction(0) for j in range(len(row))]
            for i, row in enumerate(rows)
        ]
    if name == "divide":
        divisors = torch.as_tensor(params["divisor"], dtype=torch.float64).expand(1, *shape)
        return [
            [1 / Fraction(d) if i == j else Fraction(0) for j in range(len(rows))]
            for i, d in enumerate(divisors.flatten().tolist())
        ]
    return [[Fraction(c) for c in row] for row in rows]


def exact_factor(params: Params, channel: int) -> Fraction:
    """Return gamma / sqrt(variance + eps) to 60 digits."""
    with mpmath.workdps(60):
        variance = mpmath.mpf(params["variance"][channel].item()) + mpmath.mpf(params["eps"])
        weight = 1.0 if params["weight"] is None else params["weight"][channel].item()
        number = mpmath.mpf(weight) / mpmath.sqrt(variance)
        return Fraction(int(mpmath.floor(number * mpmath.mpf(2) ** 180)), 2**180)


def exact_offset(name: str, params: Params, shape: Sequence[int]) -> list[Fraction]:
    if name != "batch_norm":
        zero = torch.zeros(1, *shape, dtype=torch.float64)
        return [Fraction(v) for v in OPS[name].run([zero], params).flatten().tolist()]
    offsets = []
    for channel in range(shape[0]):
        mean = Fraction(params["mean"][channel].item())
        bias = 0.0 if params["bias"] is None else params["bias"][channel].item()
        offsets += [Fraction(bias) - exact_factor(params, channel) * mean] * math.prod(shape[1:])
    return offsets


def errors(found: Approximate, exact: Sequence[Fraction]) -> list[Fraction]:
    """Return by how much each entry exceeds its bound of error; nowhere above 0 where all hold."""
    values = zip(found.value.flatten().tolist(), found.error.flatten().tolist(), exact, strict=True)
    return [abs(Fraction(value) - truth) - Fraction(error) for value, error, truth in values]


def test_every_operation_is_tried() -> None:
    assert set(CATALOGUE) == set(OPS)


@pytest.mark.parametrize(("name", "params", "shapes"), AFFINE, ids=named(AFFINE))
def test_the_error_of_an_affine_operation_is_bounded(name, params, shapes) -> None:
    (shape,) = shapes
    node, matrix = node_of(name, params, shapes), exact_matrix(name, params, shape)
    offset = exact_offset(name, params, shape)
    for seed in range(5):
        # Values of all sizes and signs, so that sums cancel; errors as large as some of them.
        value = draw(1, *shape, seed=seed) * 10.0 ** (4 * draw(1, *shape, seed=seed + 100))
        error = value.abs() * 1e-3 * (seed % 2)
        signs = draw(1, *shape, seed=seed + 200).sign()
        truth = [
            Fraction(v) + Fraction(e) * int(s)
            for v, e, s in zip(*(t.flatten().tolist() for t in (value, error, signs)), strict=True)
        ]
        exact = [
            sum((c * x for c, x in zip(row, truth, strict=True)), added)
            for row, added in zip(matrix, offset, strict=True)
        ]
        assert max(errors(ONE_STEP[name](node, [Approximate(value, error)]), exact)) <= 0


@pytest.mark.parametrize(("name", "params", "shapes"), AFFINE, ids=named(AFFINE))
def test_absolute_and_offset_are_magnitudes(name, params, shapes) -> None:
    (shape,) = shapes
    matrix = executed_matrix(name, params, shape)
    op, rest = OPS[name].absolute(params)
    absolute = OPS[op].run([basis(shape)], rest).flatten(1).T
    torch.testing.assert_close(absolute, matrix.abs(), rtol=1e-14, atol=0.0)
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    added = OPS[name].run([zero], params)
    offset = OPS[name].offset(params, added.dim())
    assert offset is not None or not bool(added.any())
    if offset is not None:
        assert bool((added.abs() <= offset * (1 + 1e-14)).all())


@pytest.mark.parametrize(("name", "params", "shapes"), AFFINE, ids=named(AFFINE))
def test_ratios_are_the_exact_matrix(name, params, shapes) -> None:
    (shape,) = shapes
    ratios = OPS[name].ratios(params, shape)
    if ratios is None:  # computed, or sums of several weights beside a border that reflects
        reflects = name == "conv" and params["geometry"].mode == "reflect"
        assert reflects or name in ("batch_norm", "scale_channels")
        return
    rows, divisors = (part.tolist() for part in ratios)
    assert min(divisors) > 0
    found = [
        [Fraction(c) / Fraction(d) for c in row] for row, d in zip(rows, divisors, strict=True)
    ]
    assert found == exact_matrix(name, params, shape)


def test_weights_that_a_border_adds_up_are_not_called_stored() -> None:
    weight = torch.tensor([[[1.0, 3.0, 2.0**-53]]], dtype=torch.float64)  # 1 + 2^-53 rounds
    for mode, length, alone in (
        ("reflect", 5, False),
        ("circular", 5, True),
        ("circular", 2, False),
    ):
        geometry = ConvGeometry((1,), ((1, 1),), (1,), mode=mode)
        params = {"weight": weight, "bias": None, "geometry": geometry}
        assert not OPS["conv"].stored(params)
        assert (OPS["conv"].ratios(params, (1, length)) is not None) == alone


@pytest.mark.parametrize(("name", "params", "shapes"), AFFINE, ids=named(AFFINE))
def test_roundings_count_every_product_and_sum(name, params, shapes) -> None:
    matrix = executed_matrix(name, params, shapes[0])
    products = int((matrix != 0).sum(1).max())
    assert OPS[name].roundings(params, shapes[0]) >= products + 1


@pytest.mark.parametrize(("name", "params", "shapes"), AFFINE + WIRING, ids=named(AFFINE + WIRING))
def test_what_acts_by_entry_reads_one_place_and_every_place(name, params, shapes) -> None:
    if not OPS[name].by_entry:
        return
    reads = executed_matrix(name, params, shapes[0]) != 0
    assert bool((reads.sum(0) == 1).all() and (reads.sum(1) == 1).all())


@pytest.mark.parametrize(("name", "params", "shapes"), WIRING, ids=named(WIRING))
def test_wiring_moves_entries_and_says_when_it_repeats_them(name, params, shapes) -> None:
    places, first = [], 1
    for shape in shapes:
        count = math.prod(shape)
        places.append(torch.arange(first, first + count, dtype=torch.float64).reshape(1, *shape))
        first += count
    op, rest = OPS[name].linear(params)
    moved = OPS[op].run(places, rest).flatten()
    taken = moved[moved != 0]
    assert set(taken.tolist()) <= set(range(1, first))
    twice = taken.unique().numel() < taken.numel()
    assert OPS[name].repeats(params) or not twice
    added = OPS[name].run([torch.zeros_like(part) for part in places], params)
    assert bool(((added == 0) | (added == params.get("value", 0.0))).all())


@pytest.mark.parametrize(("name", "params", "shapes"), SCALAR, ids=named(SCALAR))
def test_what_rounds_nothing_returns_arguments_or_constants(name, params, shapes) -> None:
    if OPS[name].exact:
        x = draw(1, *shapes[0])
        value = OPS[name].run([x], params)
        known = torch.tensor([0.0, params.get("low", 0.0), params.get("high", 0.0)])
        constant = (value[..., None] == known.double()).any(-1)
        assert bool((constant | (value.abs() == x.abs())).all())


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.SUM])
def test_a_record_without_what_its_kind_needs_is_refused(kind: Kind) -> None:
    with pytest.raises(InternalError, match="lacks"):
        Op(lambda x, p: x[0], kind)


def test_a_fact_of_another_kind_is_refused() -> None:
    with pytest.raises(InternalError, match="fact"):
        OPS["relu"].roundings({}, (3,))


def test_a_rule_by_name_comes_before_one_by_kind() -> None:
    table = rules({Kind.AFFINE: 1, Kind.WIRING: 2}, {"linear": 3, "constant": 4})
    assert (table["linear"], table["conv"], table["pad"], table["constant"]) == (3, 1, 2, 4)
    assert "relu" not in table


def in_float32(params: Params) -> Params:
    """Return the settings as a float32 model stores them."""
    return {
        name: value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in params.items()
    }


@pytest.mark.parametrize(("name", "params", "shapes"), AFFINE, ids=named(AFFINE))
def test_the_float32_error_of_an_affine_operation_is_bounded(name, params, shapes) -> None:
    (shape,) = shapes
    params = in_float32(params)
    stored = {k: v.double() if isinstance(v, Tensor) else v for k, v in params.items()}
    matrix, offset = exact_matrix(name, stored, shape), exact_offset(name, stored, shape)
    result = node_of(name, stored, shapes).shape
    nodes = (Node("x", "input", shape=shape), Node("y", name, ("x",), params, result))
    graph = Graph(nodes, "y", {})
    for seed in range(5):
        rows = (draw(1, *shape, seed=seed) * 10.0 ** (3 * draw(1, *shape, seed=seed + 100))).float()
        still = {"x": 0.0, "y": 0.0}
        known = execution_error(graph, rows, torch.zeros(1, dtype=torch.float64), still)
        truth = [Fraction(v) for v in rows.flatten().tolist()]
        exact = [
            sum((c * x for c, x in zip(row, truth, strict=True)), added)
            for row, added in zip(matrix, offset, strict=True)
        ]
        executed = OPS[name].run([rows], params)
        assert max(errors(Approximate(executed, known.error), exact)) <= 0
