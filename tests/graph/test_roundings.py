"""What a capture must not lose: casts that round, products of constants, a switch that jumps."""

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import holdfast
from holdfast.graph.running import evaluate


class Of(nn.Module):
    """A function of the rows and one constant."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], constant: Tensor) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("constant", constant)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.constant)


ROWS = torch.linspace(-3, 3, 10, dtype=torch.float64).reshape(5, 2)
LABELS = torch.zeros(5, dtype=torch.int64)


@pytest.mark.parametrize(
    "cast",
    [
        lambda x, c: x.float(),
        lambda x, c: x.to(torch.float32).double(),
        lambda x, c: x.type_as(c),
        lambda x, c: x.half().double(),
        lambda x, c: x.bfloat16().float(),
        lambda x, c: x.to(torch.int32) * 1.0,
        lambda x, c: x.long().double(),
    ],
)
def test_a_cast_that_rounds_is_no_wiring(cast) -> None:
    model = Of(cast, torch.zeros(1))
    with pytest.raises(holdfast.Unsupported):
        holdfast.certify(model.eval(), ROWS, LABELS)
    with pytest.raises(holdfast.Unsupported):
        holdfast.certify(model.eval(), ROWS, LABELS, method="local")


def test_a_refused_cast_says_what_to_do() -> None:
    model = Of(lambda x, c: x.float(), torch.zeros(1)).eval()
    with pytest.raises(holdfast.Unsupported, match=r"narrower type.*inputs\.float\(\)"):
        holdfast.certify(model, ROWS, LABELS)


def test_the_same_cast_of_float32_rows_costs_nothing() -> None:
    model = Of(lambda x, c: x.float(), torch.zeros(1)).eval()
    assert [node.op for node in holdfast.capture(model, ROWS.float()).nodes] == ["input"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("function", "exact"),
    [
        (lambda x, c: torch.add(x, c, alpha=0.1), lambda x, c: x + Fraction(0.1) * c),
        (lambda x, c: torch.sub(x, c, alpha=-3.7), lambda x, c: x + Fraction(3.7) * c),
        (lambda x, c: x / c, lambda x, c: x / c),
        (
            lambda x, c: (x - 0.1307) / 0.3081,
            lambda x, c: (x - Fraction(0.1307)) / Fraction(0.3081),
        ),
    ],
)
def test_constants_that_are_combined_carry_their_rounding(function, exact, dtype) -> None:
    constant = torch.tensor([[0.3, -7.1]], dtype=dtype)
    rows = ROWS.to(dtype)
    found = evaluate(holdfast.capture(Of(function, constant).eval(), rows), rows)
    for k, (x, c) in enumerate(
        zip(rows.flatten().tolist(), constant.expand_as(rows).flatten().tolist(), strict=True)
    ):
        truth = exact(Fraction(x), Fraction(c))
        value, error = (part.flatten()[k].item() for part in (found.value, found.error))
        assert abs(Fraction(value) - truth) <= Fraction(error)


@pytest.mark.parametrize("divisor", [3.0, 0.3081, 4.0, -0.5, 1e-30])
@pytest.mark.parametrize("norm", [1, 2, float("inf")])
def test_the_constant_of_a_quotient_is_no_smaller_than_the_exact_one(divisor, norm) -> None:
    model = Of(lambda x, c: x / c, torch.tensor([[divisor]], dtype=torch.float64)).eval()
    bracket = holdfast.lipschitz(model, ROWS, norm=norm, seconds=0.0)
    exact = abs(1 / Fraction(divisor))
    assert Fraction(bracket.lower) <= exact <= Fraction(bracket.upper)


def test_a_division_by_zero_is_not_bounded() -> None:
    model = Of(lambda x, c: F.relu(x) / c, torch.zeros(1, 2, dtype=torch.float64)).eval()
    with pytest.raises(holdfast.HoldfastError):
        holdfast.lipschitz(model, ROWS, seconds=0.0)


@pytest.mark.parametrize(
    ("dtype", "beta", "threshold", "hidden"),
    [
        (torch.float32, 1.0, 20.0, True),
        (torch.float64, 1.0, 20.0, False),
        (torch.float64, 1.0, 40.0, True),
        (torch.float64, 1e-3, 15.0, False),
        (torch.float32, 1.0, 5.0, False),
    ],
)
def test_the_switch_of_softplus_is_rounding_or_refused(dtype, beta, threshold, hidden) -> None:
    model = nn.Softplus(beta, threshold).eval()
    where = torch.tensor([[threshold / beta] * 2], dtype=dtype)
    below, above = model(where), model(torch.nextafter(where, torch.full_like(where, torch.inf)))
    assert bool((above >= below).all()) or not hidden
    rows = ROWS.to(dtype)
    for method in ("global", "local"):
        if hidden:
            assert len(holdfast.certify(model, rows, LABELS, method=method)) == 5
        else:
            with pytest.raises(holdfast.Unsupported, match="threshold"):
                holdfast.certify(model, rows, LABELS, method=method)


def test_sums_along_a_row_are_bounded_in_every_norm() -> None:
    """The matrix of a sum of 2 is [[1, 0], [1, 1]]: l1 and linf constant 2, l2 (1 + sqrt 5) / 2."""
    model = Of(lambda x, c: x.cumsum(1), torch.zeros(1)).eval()
    exact = {1: 2.0, 2: (1 + 5**0.5) / 2, float("inf"): 2.0}
    for norm, constant in exact.items():
        bracket = holdfast.lipschitz(model, ROWS, norm=norm, seconds=0.0)
        assert bracket.lower <= constant * (1 + 1e-15) and constant <= bracket.upper
        assert bracket.upper <= 2.0 * (1 + 1e-9)


class Cast(nn.Module):
    """Float32 weights behind a cast: the class flips where the rounding of the row does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)
        self.layer.weight.data = torch.tensor([[1.0], [-1.0]])
        self.layer.bias.data = torch.tensor([-1.0, 1.0])

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.float())


def test_a_model_that_rounds_its_rows_is_not_certified_for_other_rows() -> None:
    model, rows = Cast().eval(), torch.tensor([[1 + 3e-8], [1 + 6.1e-8]], dtype=torch.float64)
    logits = model(rows[1:] - 2e-9)
    assert logits[0, 0] == logits[0, 1]  # a tie, 2e-9 away
    with pytest.raises(holdfast.Unsupported, match="narrower"):
        holdfast.certify(model, rows, torch.zeros(2, dtype=torch.int64))
    assert len(holdfast.certify(model, rows.float(), torch.zeros(2, dtype=torch.int64))) == 2


@pytest.mark.parametrize("kind", [torch.int8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_constants_of_whole_numbers_have_true_sizes(kind: torch.dtype) -> None:
    """The absolute value of the least number of such a type is that number itself."""
    least = 0 if kind == torch.bool else torch.iinfo(kind).min
    factor = torch.tensor([1, least], dtype=kind)
    model, x = Of(torch.mul, factor).eval(), torch.tensor([[10.0, 0.0]])
    steep = max(1, -least)
    for norm in (1, 2, torch.inf):
        found = holdfast.certify(model, x, [0], norm)
        flips = {1: Fraction(10, steep), 2: Fraction(10, steep), torch.inf: Fraction(10, 1 + steep)}
        assert found.constant >= steep
        assert 0 < Fraction(float(found.radius)) <= flips[norm] or least == 0
        assert float(found.output_change(0.01)) >= 0.01 * steep


def test_whole_numbers_that_float64_does_not_hold_have_no_rule() -> None:
    model = Of(torch.mul, torch.tensor([1, 2**53 + 1])).double().eval()
    with pytest.raises(holdfast.Unsupported, match="mul"):
        holdfast.lipschitz(model, torch.ones(1, 2).double(), seconds=0.0)
