"""Solver and proof: soundness without tolerance, agreement with a slow reference."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from tests.sdp.builders import Tape, feed_forward

from holdfast.errors import InvalidInput
from holdfast.sdp.dense.interior import minimise, solve
from holdfast.sdp.form import NormalForm
from holdfast.sdp.proof import prove, prove_linf
from holdfast.sdp.reduction import reduce

ACTIVATIONS = {
    "relu": (torch.relu, 0.0, 1.0),
    "leaky": (lambda z: torch.nn.functional.leaky_relu(z, 0.1), 0.1, 1.0),
    "tanh": (torch.tanh, 0.0, 1.0),
    "gelu": (torch.nn.functional.gelu, -0.129, 1.129),
    "steep": (lambda z: torch.nn.functional.leaky_relu(z, 2.0), 1.0, 2.0),
}


def random_net(kind: str, activation: str, seed: int):
    """Return a function of a batch and its normal form."""
    rng = np.random.default_rng(seed)
    phi, low, high = ACTIVATIONS[activation]
    d, width, outputs = (int(k) for k in rng.integers([2, 3, 1], [8, 9, 4]))
    weight = lambda m, n: rng.standard_normal((m, n)) / math.sqrt(n) * 1.5  # noqa: E731
    tape = Tape(d)
    bias = [torch.tensor(rng.standard_normal(width)) * 0.5 for _ in range(3)]
    W = [weight(width, d), weight(width, width), weight(width, width)]
    skip, last = weight(width, d), weight(outputs, 2 * width if kind == "concat" else width)
    t = torch.tensor

    def f(x):
        one = phi(x @ t(W[0]).T + bias[0])
        two = phi(one @ t(W[1]).T + bias[1])
        if kind == "residual":
            two = two + x @ t(skip).T
        three = phi(two @ t(W[2]).T + bias[2])
        if kind == "residual":
            three = three + one
        return (torch.cat([three, one], -1) if kind == "concat" else three) @ t(last).T

    one = tape.activate(tape.linear(W[0], tape.input), low, high)
    two = tape.activate(tape.linear(W[1], one), low, high)
    if kind == "residual":
        two = tape.add(two, tape.linear(skip, tape.input))
    three = tape.activate(tape.linear(W[2], two), low, high)
    if kind == "residual":
        three = tape.add(three, one)
    end = tape.concat([three, one]) if kind == "concat" else three
    return f, tape.normal_form(tape.linear(last, end)), d


def sampled_slope(f, d: int, seed: int, norm: float = 2.0) -> float:
    """Return the steepest of 10,000 pairs, near and far, and of the Jacobians at 300 points."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(10_000, d, generator=g, dtype=torch.float64) * 2
    step = torch.randn(10_000, d, generator=g, dtype=torch.float64)
    step *= 10.0 ** (torch.rand(10_000, 1, generator=g, dtype=torch.float64) * 5 - 4)
    secant = (f(x + step) - f(x)).norm(dim=1) / (x + step - x).norm(dim=1, p=norm)
    jacobian = torch.func.vmap(torch.func.jacrev(f))(x[:300])
    if norm == 2.0:
        tangent = torch.linalg.matrix_norm(jacobian, 2)
    else:
        tangent = jacobian.abs().sum(-1).max(-1).values
    return max(float(secant.max()), float(tangent.max()))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["chain", "residual", "concat"])
@pytest.mark.parametrize("seed", range(4))
def test_no_sampled_slope_exceeds_the_bound(kind, activation, seed):
    f, form, d = random_net(kind, activation, seed)
    small = reduce(form)
    upper = prove(small, solve(small, 1e-4, 20.0))
    lower = sampled_slope(f, d, seed)
    assert lower <= upper < 20 * lower
    early = prove(small, solve(small, 1e-4, 0.0))
    assert upper <= early < math.inf


def fractions(matrix: np.ndarray) -> list[list[Fraction]]:
    """Return a float matrix as fractions."""
    return [[Fraction(float(e)) for e in row] for row in matrix]


def exact_slack(model: tuple, r: Fraction, lam: np.ndarray) -> list[list[Fraction]]:
    """Return S(r, lam) in rational arithmetic for (B, C, low, high)."""
    B, C, low, high = model
    size, units = len(B[0]), len(B)
    d = size - units
    S = [[-sum(row[i] * row[j] for row in C) for j in range(size)] for i in range(size)]
    for j in range(d):
        S[j][j] += r
    for unit, weight in enumerate(lam):
        p = [-Fraction(float(low[unit])) * e for e in B[unit]]
        q = [-Fraction(float(high[unit])) * e for e in B[unit]]
        p[d + unit] += 1
        q[d + unit] += 1
        for i in range(size):
            for j in range(size):
                S[i][j] += Fraction(float(weight)) * (p[i] * q[j] + q[i] * p[j])
    return S


def exact_entry(form: NormalForm, r: Fraction, lam: np.ndarray) -> list[list[Fraction]]:
    """Return S(r, lam) of a form in rational arithmetic."""
    return exact_slack((fractions(form.B), fractions(form.C), form.low, form.high), r, lam)


def positive_definite(S: list[list[Fraction]]) -> bool:
    """Decide positive definiteness by exact elimination."""
    S = [row[:] for row in S]
    for k in range(len(S)):
        if S[k][k] <= 0:
            return False
        for i in range(k + 1, len(S)):
            ratio = S[i][k] / S[k][k]
            if ratio:
                S[i] = [a - ratio * b for a, b in zip(S[i], S[k], strict=True)]
    return True


@pytest.mark.parametrize("slopes", [(0.0, 1.0), (0.1, 1.0), (-0.129, 1.129)])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20, 1e-42])
def test_the_proof_holds_in_rational_arithmetic(slopes, scale):
    rng = np.random.default_rng(5)
    shapes = [(3, 7), (3, 3), (2, 3)]  # seven inputs, rank three: rotated
    weights = [rng.standard_normal(s) * scale for s in shapes]
    form = feed_forward(weights, [slopes] * 2)
    small = reduce(form)
    lam = solve(small, 1e-6, 20.0)
    upper = prove(small, lam)
    assert small.rotated
    assert positive_definite(exact_entry(form, Fraction(upper) ** 2, lam))
    assert not positive_definite(exact_entry(form, Fraction(upper * (1 - 1e-7)) ** 2, lam))


def exact_product(left: list, right: list) -> list:
    """Multiply matrices of fractions."""
    columns = list(zip(*right, strict=True))
    return [[sum(a * b for a, b in zip(row, c, strict=True)) for c in columns] for row in left]


def test_the_proof_covers_the_rounding_of_the_builder_and_of_the_elimination():
    rng = np.random.default_rng(8)
    W = [rng.standard_normal(s) for s in [(3, 4), (4, 3), (3, 4), (2, 4)]]
    tape = Tape(4)
    one = tape.activate(tape.linear(W[0], tape.input), 0.0, 1.0)
    skip = tape.add(tape.input, tape.linear(W[1], one))
    bent = tape.activate(skip, 0.3, 0.3)  # linear, to be eliminated
    two = tape.activate(tape.linear(W[2], tape.add(bent, tape.linear(W[1], one))), -0.1, 1.1)
    form = reduce(tape.normal_form(tape.linear(W[3], tape.linear(W[1], two))))
    lam = solve(form, 1e-7, 20.0)
    upper = prove(form, lam)
    assert form.B_error is not None

    exact = [[[Fraction(float(e)) for e in row] for row in w] for w in W]
    zero, unit = Fraction(0), Fraction(1)
    eye = [[unit if i == j else zero for j in range(4)] for i in range(4)]
    slope = Fraction(0.3)
    direct = exact_product(exact[2], [[slope * e for e in row] for row in eye])
    weight = [[(1 + slope) * e for e in row] for row in exact[1]]
    through = exact_product(exact[2], weight)
    B = [[*row, zero, zero, zero, zero, zero, zero] for row in exact[0]]
    B += [[*a, *b, zero, zero, zero] for a, b in zip(direct, through, strict=True)]
    C = [[zero] * 7 + row for row in exact_product(exact[3], exact[1])]
    S = exact_slack((B, C, form.low, form.high), Fraction(upper) ** 2, lam)
    assert positive_definite(S)
    S = exact_slack((B, C, form.low, form.high), Fraction(upper * (1 - 1e-8)) ** 2, lam)
    assert not positive_definite(S)


def test_multipliers_from_anywhere_give_a_valid_bound_or_inf():
    rng = np.random.default_rng(6)
    form = feed_forward([rng.standard_normal(s) for s in [(4, 3), (4, 4), (2, 4)]], [(0, 1)] * 2)
    best = solve(reduce(form), 1e-6, 20.0)
    assert prove(form, best * 0.0) == math.inf
    assert prove(form, best * -1.0) == math.inf
    assert prove(form, best[:-1]) == math.inf
    assert prove(form, best * np.nan) == math.inf
    optimum, finite = prove(form, best), 0
    for _ in range(200):
        lam = best * np.exp(rng.standard_normal(8) * rng.uniform(0, 1))
        upper = prove(form, lam)
        assert upper >= optimum * (1 - 1e-6)
        if math.isfinite(upper):
            finite += 1
            assert positive_definite(exact_entry(form, Fraction(upper) ** 2, lam))
    assert finite > 20


def clarabel(form: NormalForm, diagonal: bool = False) -> float:
    """Solve the same program by cvxpy and Clarabel."""
    import cvxpy as cp

    d, size = form.inputs, form.B.shape[1]
    E = np.eye(size)
    P = E[d:] - form.low[:, None] * form.B
    Q = E[d:] - form.high[:, None] * form.B
    r, lam = cp.Variable(d), cp.Variable(form.units, nonneg=True)
    S = E[:, :d] @ cp.diag(r) @ E[:d] - form.C.T @ form.C
    S = S + P.T @ cp.diag(lam) @ Q + Q.T @ cp.diag(lam) @ P
    equal = [] if diagonal else [r == r[0]]
    goal = cp.sum(r) if diagonal else r[0]
    cp.Problem(cp.Minimize(goal), [S >> 0, *equal]).solve(
        solver=cp.CLARABEL, tol_gap_rel=1e-9, tol_gap_abs=1e-9, tol_feas=1e-9
    )
    return math.sqrt(goal.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("activation", ["relu", "leaky", "gelu"])
@pytest.mark.parametrize("kind", ["chain", "residual", "concat"])
def test_agrees_with_clarabel(kind, activation):
    form = reduce(random_net(kind, activation, 11)[1])
    assert prove(form, solve(form, 1e-6, 20.0)) == pytest.approx(clarabel(form), rel=2e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["chain", "residual", "concat"])
def test_linf_agrees_with_clarabel_and_with_samples(kind):
    f, form, d = random_net(kind, "leaky", 3)
    row = NormalForm(form.B, form.C[:1], form.low, form.high, d, form.B_error,
                     None if form.C_error is None else form.C_error[:1])  # fmt: skip
    small = reduce(row, rotate=False)
    r, lam = minimise(small, True, (1e-6, 20.0))
    upper = prove_linf(small, r, lam)
    assert upper == pytest.approx(clarabel(small, diagonal=True), rel=2e-6)
    assert sampled_slope(lambda x: f(x)[..., :1], d, 3, math.inf) <= upper


def test_forms_without_units_or_outputs():
    C = np.array([[3.0, 0.0], [0.0, 4.0]])
    form = reduce(NormalForm(np.zeros((0, 2)), C, np.zeros(0), np.zeros(0), 2))
    assert prove(form, solve(form, 1e-3, 1.0)) == pytest.approx(4.0, rel=1e-9)
    nothing = reduce(NormalForm(np.zeros((0, 2)), np.zeros((2, 2)), np.zeros(0), np.zeros(0), 2))
    assert prove(nothing, solve(nothing, 1e-3, 1.0)) == 0.0


@pytest.mark.parametrize("errors", [None, 0.0, 1e-9])
def test_an_output_that_never_moves_is_bounded_by_zero_or_not_at_all(errors):
    """Never NaN, which no comparison would stop."""
    B, C = np.array([[1.0, 2.0, 0.0]]), np.zeros((1, 3))
    fields = (None, None) if errors is None else (np.zeros((1, 2)), np.full((1, 2), errors))
    form = reduce(NormalForm(B, C, np.zeros(1), np.ones(1), 2, *fields), rotate=False)
    r, lam = minimise(form, True, (1e-3, 5.0))
    for bound in (prove(form, lam), prove_linf(form, r, lam)):
        assert bound == (math.inf if errors else 0.0)


def test_solver_refuses_what_is_not_reduced():
    form = feed_forward([np.eye(2), np.eye(2)], [(1.0, 1.0)])
    with pytest.raises(InvalidInput):
        solve(form, 1e-3, 1.0)
    with pytest.raises(InvalidInput):
        prove_linf(form, np.ones(2), np.ones(2))


@pytest.mark.parametrize("seed", range(30))
def test_hostile_scales(seed):
    rng = np.random.default_rng(seed)
    shapes = [(5, 4), (6, 5), (3, 6)]
    weights = [
        rng.standard_normal(s) * 10.0 ** rng.uniform(-6, 6, (s[0], 1)) * 10.0 ** rng.uniform(-9, 9)
        for s in shapes
    ]
    form = feed_forward(weights, [(0.0, 1.0)] * 2)
    small = reduce(form)
    upper = prove(small, solve(small, 1e-3, 10.0))
    product = math.prod(np.linalg.norm(w, 2) for w in weights)
    assert np.linalg.norm(weights[2] @ weights[1] @ weights[0], 2) <= upper <= product * 1.01
