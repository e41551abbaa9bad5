"""Soundness, derivatives, reference values and rejection for chains."""

import json
import math

import mpmath
import pytest
import torch
from benchmarks.eclipse import eclipse_fast
from mpmath import mp
from safetensors.torch import load_file
from tests.nets import Residual, crossed
from torch import nn

import holdfast
from holdfast.brackets.gain import gain_upper
from holdfast.brackets.lower.pairs import slopes_lower
from holdfast.brackets.semidefinite import lipsdp_upper
from holdfast.sdp.chain import recursion, search, start
from holdfast.sdp.chain.chain import Chain, ChainLayer, chain_of, condense
from holdfast.sdp.chain.proof import chain_upper, symmetric_upper
from holdfast.sdp.dense.interior import solve
from holdfast.sdp.lift import normal_form
from holdfast.sdp.proof import prove
from holdfast.sdp.reduction import reduce

KINDS = ["plain", "leaky", "gelu", "mixed", "deep", "wide-input"]
CONDENSED = ["outer", "without-neurons"]
"""As `condense` leaves them: the search knows them, the proof does not."""


def layer(inner, low=0.0, high=1.0, outer=None, skip=None):
    slopes = [torch.as_tensor(s, dtype=torch.float64).expand(len(inner)) for s in (low, high)]
    return ChainLayer(inner, *slopes, outer, skip)


def feed_forward(weights, low=0.0, high=1.0):
    return Chain(tuple(layer(weight, low, high) for weight in weights[:-1]), weights[-1])


def rand(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *s: torch.randn(*s, generator=generator, dtype=torch.float64) / math.sqrt(s[-1])


def make(kind, seed):  # noqa: PLR0911 - one net each
    r = rand(seed)
    if kind == "plain":
        return feed_forward([r(7, 5), r(6, 7), r(3, 6)])
    if kind == "leaky":
        return feed_forward([r(7, 5), r(6, 7), r(3, 6)], 0.01, 1.0)
    if kind == "gelu":
        return feed_forward([r(6, 4), r(5, 6), r(2, 5)], -0.128904146, 1.128904146)
    if kind == "mixed":
        low = torch.tensor([0.0, 1.0, 0.3, -1.0, 0.0, 0.7], dtype=torch.float64)
        high = torch.tensor([1.0, 1.0, 0.3, 1.0, 0.0, 0.9], dtype=torch.float64)
        inner = r(6, 4)
        inner[4] = 0
        return Chain((layer(inner, low, high), layer(r(5, 6), 0.1, 0.9)), r(3, 5))
    if kind == "outer":
        eye = torch.eye(5, dtype=torch.float64)
        layers = [layer(r(6, 5), outer=r(5, 6), skip=eye) for _ in range(3)]
        return Chain(tuple(layers), r(4, 5))
    if kind == "deep":
        return feed_forward([r(8, 8) for _ in range(9)] + [r(3, 8)])
    if kind == "wide-input":
        return feed_forward([r(5, 40), r(4, 5), r(3, 4)])
    nothing = torch.zeros(0, 9).double()
    first = layer(nothing, outer=torch.zeros(5, 0).double(), skip=r(5, 9))
    return Chain((first, layer(r(6, 5), -0.1, 1.1, r(4, 6), r(4, 5))), r(3, 4))


def least(chain, tolerance=1e-5, seconds=20.0):
    """Return the last estimate of a search, and its multipliers."""
    seen = [(math.inf, ())]
    search.minimise(chain, tolerance, seconds, lambda *found: seen.append(found))
    return seen[-1]


def jacobians(chain, count, seed):
    """Products of the chain with extreme and inner slopes drawn per neuron: [count, k, d]."""
    generator = torch.Generator().manual_seed(seed)
    d = chain.layers[0].inner.shape[1]
    value = torch.eye(d, dtype=torch.float64).expand(count, d, d)
    for part in chain.layers:
        u = torch.rand(count, part.neurons, generator=generator, dtype=torch.float64)
        u = torch.where(torch.rand(count, 1, generator=generator) < 0.7, u.round(), u)
        slopes = part.low + u * (part.high - part.low)
        value = slopes[:, :, None] * (part.inner @ value)
    return chain.last @ value


@pytest.mark.parametrize(("kind", "seed"), crossed(KINDS, range(4)))
def test_no_sampled_slope_exceeds_the_proved_bound(kind, seed):
    chain = make(kind, seed)
    worst = float(torch.linalg.matrix_norm(jacobians(chain, 10_000, seed), 2).max())
    seen = []
    search.minimise(chain, 1e-5, 5.0, lambda *found: seen.append(found))
    bounds = [chain_upper(chain, m) for _, m in seen]
    assert all(worst <= bound for bound in bounds)
    assert bounds[-1] == pytest.approx(seen[-1][0], rel=1e-9)
    assert [estimate for estimate, _ in seen] == sorted((e for e, _ in seen), reverse=True)


def lifted(chain, lam, rho):
    """The slow, obvious LMI: M(rho, lam) over (x_0, v_1, ..., v_l)."""
    d = chain.layers[0].inner.shape[1]
    total = d + sum(part.neurons for part in chain.layers)
    rows = torch.eye(total, dtype=torch.float64)
    x, done, matrix = rows[:d], d, rho * rows[:d].mT @ rows[:d]
    for part, lam_i in zip(chain.layers, chain.split(lam), strict=True):
        v, z = rows[done : done + part.neurons], part.inner @ x
        done += part.neurons
        p, q = v - part.low[:, None] * z, v - part.high[:, None] * z
        own = p.mT @ (lam_i[:, None] * q)
        matrix = matrix + (own + own.mT) / 2
        after = v if part.outer is None else part.outer @ v
        x = after if part.skip is None else after + part.skip @ x
    y = chain.last @ x
    return matrix - y.mT @ y


@pytest.mark.parametrize("kind", [*KINDS, *CONDENSED])
def test_derivatives_are_those_of_the_lifted_matrix(kind):
    chain = condense(make(kind, 0)) if kind in KINDS else make(kind, 0)
    lam = start.feasible(chain, start.closed_form(chain)) * 1.2
    result = recursion.sweep(chain, lam)
    rho = 1.4 * float(torch.linalg.eigvalsh(result.start)[-1])
    covariance = torch.linalg.inv(rho * torch.eye(len(result.start)).double() - result.start)
    at = torch.cat((lam, torch.tensor([rho], dtype=torch.float64)))

    def value(u):
        return -torch.linalg.slogdet(lifted(chain, u[:-1], u[-1])).logabsdet

    mine = torch.linalg.slogdet(covariance).logabsdet - result.logdet
    slope, curvature = recursion.derivatives(chain, result, covariance)
    assert float(mine) == pytest.approx(float(value(at)), rel=1e-10)
    assert torch.allclose(slope, torch.autograd.functional.jacobian(value, at), rtol=1e-8)
    assert torch.allclose(slope, recursion.gradient(chain, result, covariance), rtol=1e-12)
    truth = torch.autograd.functional.hessian(value, at)
    scale = truth.diagonal().rsqrt()
    assert float(((curvature - truth) * scale[:, None] * scale).abs().max()) < 1e-8


def load(folder, name):
    spec = json.loads((folder / f"{name}.json").read_text())
    weights = load_file(str(folder / f"{name}.safetensors"))
    double = {key: value.double() for key, value in weights.items()}
    layers = [i for i, layer in enumerate(spec["arch"]) if layer["type"] == "linear"]
    return feed_forward([double[f"{i}.weight"] for i in layers])


NAMES = (
    "digits_32_trained",
    "digits_32_rand",
    "digits_128_trained",
    "deep_10x64_gauss",
    "tiny_2-8-8-2_moons",
)


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_reference(name, shared):
    folder = shared / "nets/lipschitz"
    expected = json.loads((folder / "reference.json").read_text())[name]
    chain = load(folder, name)
    _, multipliers = least(chain, seconds=60.0)
    bound = chain_upper(chain, multipliers)
    assert bound == pytest.approx(expected["lipsdp_neuron"], rel=1e-4)
    assert bound >= expected["best_lower"]
    value, lam = eclipse_fast(chain)
    assert value == pytest.approx(expected["eclipse_fast"], rel=1e-6)
    raised = chain.split(start.feasible(condense(chain), lam))
    assert chain_upper(chain, raised) <= value * (1 + 1e-5)


def test_tampered_multipliers_prove_nothing():
    chain = make("plain", 0)
    _, good = least(chain, seconds=2.0)
    assert chain_upper(chain, good) < math.inf
    for bad in (-1.0, 0.0, math.nan, math.inf, 1e-200):
        changed = [m.clone() for m in good]
        changed[1][2] = bad
        assert chain_upper(chain, changed) == math.inf
    assert chain_upper(chain, good[:1]) == math.inf
    assert chain_upper(chain, [m[:-1] for m in good]) == math.inf
    assert chain_upper(chain, [m * 0.5 for m in good]) == math.inf
    assert chain_upper(chain, [m.float() for m in good]) == math.inf
    assert chain_upper(make("outer", 0), least(make("outer", 0))[1]) == math.inf


def matrix(tensor):
    return mp.matrix(tensor.tolist())


def precise(chain, multipliers):
    """The recursion in 60 digits, in the centred form, from the float multipliers."""
    ahead = matrix(chain.last).T * matrix(chain.last)
    for part, lam in zip(reversed(chain.layers), reversed(multipliers), strict=True):
        free = [i for i in range(part.neurons) if bool(part.free[i])]
        low, high = ([mp.mpf(v) for v in side.tolist()] for side in (part.low, part.high))
        inner, outer = matrix(part.inner), mp.eye(part.neurons)
        middle = mp.diag([(a + b) / 2 for a, b in zip(low, high, strict=True)])
        straight = middle * inner
        value = straight.T * ahead * straight
        if free:
            used = mp.diag([mp.mpf(float(lam[i])) for i in free])
            radius = mp.diag([(high[i] - low[i]) / 2 for i in free])
            rows = mp.matrix([[inner[i, j] for j in range(inner.cols)] for i in free])
            columns = mp.matrix([[outer[i, j] for j in free] for i in range(outer.rows)])
            gain = columns.T * ahead * straight
            rest = used - columns.T * ahead * columns
            value += rows.T * radius * used * radius * rows + gain.T * mpmath.inverse(rest) * gain
        ahead = value
    return mp.sqrt(max(mp.eigsy(ahead, eigvals_only=True)))


@pytest.mark.parametrize(("kind", "scale"), crossed(KINDS, [1.0, 1e-9, 1e9]))
def test_proof_is_above_sixty_digits(kind, scale):
    chain = make(kind, 5)
    chain = Chain(chain.layers, chain.last * scale)
    _, multipliers = least(chain, 1e-3, 2.0)
    with mp.workdps(60):
        exact = precise(chain, multipliers)
        bound = chain_upper(chain, multipliers)
        assert mp.mpf(bound) >= exact
        assert bound <= exact * (1 + mp.mpf(10) ** -8)


@pytest.mark.parametrize("seed", range(20))
def test_symmetric_upper(seed):
    x = rand(seed)(9, 9)
    x = (x + x.mT) * 10.0 ** (seed - 10)
    with mp.workdps(50):
        top = max(mp.eigsy(matrix(x), eigvals_only=True))
        assert top <= symmetric_upper(x) <= top + abs(top) * 1e-10 + mp.mpf(10) ** -290


def test_zero_and_extreme_weights():
    nothing = feed_forward([torch.zeros(3, 2).double(), torch.ones(2, 3).double()])
    assert chain_upper(nothing, least(nothing, seconds=1.0)[1]) < 1e-6
    silent = feed_forward([torch.ones(3, 2).double(), torch.zeros(2, 3).double()])
    assert chain_upper(silent, least(silent, seconds=1.0)[1]) < 1e-6
    huge = feed_forward([torch.ones(3, 2).double() * 1e200, torch.ones(2, 3).double() * 1e200])
    assert chain_upper(huge, least(huge, seconds=1.0)[1]) == math.inf


def test_diagonal_blocks_of_the_hessian_do(monkeypatch):
    chain = make("deep", 1)
    best, _ = least(chain)
    monkeypatch.setattr("holdfast.sdp.chain.barrier.DENSE_NEURONS", 0)
    blocks, _ = least(chain, 1e-3)
    assert blocks == pytest.approx(best, rel=2e-3)


@pytest.mark.parametrize("name", ["mlp", "skip"])
def test_a_normal_form_is_a_chain_only_without_skips(name):
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 3)]
    net = nn.Sequential(*layers)
    if name == "skip":
        net = nn.Sequential(layers[0], Residual(nn.ReLU(), nn.Linear(6, 6)), layers[4])
    form = normal_form(holdfast.capture(net.eval(), torch.zeros(1, 4)), 100)
    chain = chain_of(form)
    if name == "skip":
        assert chain is None
        return
    assert [part.neurons for part in chain.layers] == [6, 6]
    bound = chain_upper(chain, least(chain, seconds=5.0)[1])
    small = reduce(form)
    assert bound == pytest.approx(prove(small, solve(small, 1e-6, 5.0)), rel=1e-4)


def test_deep_nets_are_bounded_along_the_chain():
    torch.manual_seed(0)
    net = nn.Sequential(*[m for _ in range(6) for m in (nn.Linear(8, 8), nn.ReLU())])
    graph = holdfast.capture(net.eval(), torch.zeros(1, 8))
    closed_form, upper = lipsdp_upper(graph, 1e-4, 10.0)
    assert upper < closed_form
    first = torch.randn(2000, 8, dtype=torch.float64)
    second = first + 0.1 * torch.randn(2000, 8, dtype=torch.float64)
    assert float(slopes_lower(graph, first, second, 2.0).max()) <= upper < gain_upper(graph, 2)
