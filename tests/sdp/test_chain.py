"""Soundness, derivatives, reference values and rejection for chains."""

import json
import math

import mpmath
import pytest
import torch
from mpmath import mp
from safetensors.torch import load_file
from tests.nets import Residual
from torch import nn

import holdfast
from holdfast.brackets.gain import gain_upper
from holdfast.brackets.lower.witness import slopes_lower
from holdfast.brackets.semidefinite import lipsdp_upper
from holdfast.errors import InvalidInput
from holdfast.sdp.chain import recursion as riccati
from holdfast.sdp.chain import search, start
from holdfast.sdp.chain.chain import Chain, activation, condense, feed_forward, linear
from holdfast.sdp.chain.lift import chain_of
from holdfast.sdp.chain.proof import chain_upper, symmetric_upper
from holdfast.sdp.dense.interior import solve
from holdfast.sdp.lift import normal_form
from holdfast.sdp.proof import prove
from holdfast.sdp.reduction import reduce

KINDS = ["plain", "leaky", "gelu", "mixed", "residual", "deep", "wide-input", "linear-first"]


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
        return Chain((activation(inner, low, high), activation(r(5, 6), 0.1, 0.9)), r(3, 5))
    if kind == "residual":
        blocks = [activation(r(6, 5), outer=r(5, 6), skip="identity") for _ in range(3)]
        return Chain(tuple(blocks), r(4, 5))
    if kind == "deep":
        return feed_forward([r(8, 8) for _ in range(9)] + [r(3, 8)])
    if kind == "wide-input":
        return feed_forward([r(5, 40), r(4, 5), r(3, 4)])
    blocks = (linear(r(5, 9)), activation(r(6, 5), -0.1, 1.1, outer=r(4, 6), skip=r(4, 5)))
    return Chain(blocks, r(3, 4))


def jacobians(chain, count, seed):
    """Products of the chain with extreme and inner slopes drawn per neuron: [count, k, d]."""
    generator = torch.Generator().manual_seed(seed)
    d = chain.blocks[0].inner.shape[1]
    value = torch.eye(d, dtype=torch.float64).expand(count, d, d)
    for block in chain.blocks:
        u = torch.rand(count, block.neurons, generator=generator, dtype=torch.float64)
        u = torch.where(torch.rand(count, 1, generator=generator) < 0.7, u.round(), u)
        slopes = block.low + u * (block.high - block.low)
        after = block.outer_matrix() @ (slopes[:, :, None] * (block.inner @ value))
        skip = block.skip_matrix()
        value = after if skip is None else after + skip @ value
    return chain.last @ value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_no_sampled_slope_exceeds_the_proved_bound(kind, seed):
    chain = make(kind, seed)
    worst = float(torch.linalg.matrix_norm(jacobians(chain, 10_000, seed), 2).max())
    seen = []
    found = search.minimise(chain, seconds=5.0, callback=lambda s, e, m: seen.append((e, m)))
    bounds = [chain_upper(chain, m) for _, m in seen]
    assert found.ending is search.Ending.OPTIMAL
    assert all(worst <= bound for bound in bounds)
    assert bounds[-1] == pytest.approx(found.estimate, rel=1e-9)
    assert found.floor_estimate <= found.estimate <= seen[0][0]


def lifted(chain, lam, rho):
    """The slow, obvious LMI: M(rho, lam) over (x_0, v_1, ..., v_l)."""
    d = chain.blocks[0].inner.shape[1]
    total = d + sum(b.neurons for b in chain.blocks)
    rows = torch.eye(total, dtype=torch.float64)
    x, done, matrix = rows[:d], d, rho * rows[:d].mT @ rows[:d]
    for block, lam_i in zip(chain.blocks, riccati.split(chain, lam), strict=True):
        v, z = rows[done : done + block.neurons], block.inner @ x
        done += block.neurons
        p, q = v - block.low[:, None] * z, v - block.high[:, None] * z
        part = p.mT @ (lam_i[:, None] * q)
        matrix = matrix + (part + part.mT) / 2
        skip = block.skip_matrix()
        x = block.outer_matrix() @ v + (0 if skip is None else skip @ x)
    y = chain.last @ x
    return matrix - y.mT @ y


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_those_of_the_lifted_matrix(kind):
    chain = condense(make(kind, 0))
    lam = start.feasible(chain, start.closed_form(chain)) * 1.2
    result = riccati.sweep(chain, lam)
    rho = 1.4 * float(torch.linalg.eigvalsh(result.start)[-1])
    covariance = torch.linalg.inv(rho * torch.eye(len(result.start)).double() - result.start)
    at = torch.cat((lam, torch.tensor([rho], dtype=torch.float64)))

    def value(u):
        return -torch.linalg.slogdet(lifted(chain, u[:-1], u[-1])).logabsdet

    mine = torch.linalg.slogdet(covariance).logabsdet - result.logdet
    slope, curvature = riccati.derivatives(chain, result, covariance)
    assert float(mine) == pytest.approx(float(value(at)), rel=1e-10)
    assert torch.allclose(slope, torch.autograd.functional.jacobian(value, at), rtol=1e-8)
    assert torch.allclose(slope, riccati.gradient(chain, result, covariance), rtol=1e-12)
    truth = torch.autograd.functional.hessian(value, at)
    scale = truth.diagonal().rsqrt()
    assert float(((curvature - truth) * scale[:, None] * scale).abs().max()) < 1e-8


def load(folder, name):
    spec = json.loads((folder / f"{name}.json").read_text())
    weights = load_file(str(folder / f"{name}.safetensors"))
    double = {key: value.double() for key, value in weights.items()}
    if name.startswith("resnet"):
        blocks = [linear(double["0.weight"])] + [
            activation(
                double[f"{k}.body.0.weight"], outer=double[f"{k}.body.2.weight"], skip="identity"
            )
            for k in (1, 2, 3)
        ]
        return Chain(tuple(blocks), double["4.weight"])
    layers = [i for i, layer in enumerate(spec["arch"]) if layer["type"] == "linear"]
    return feed_forward([double[f"{i}.weight"] for i in layers])


NAMES = (
    "digits_32_trained",
    "digits_32_rand",
    "digits_128_trained",
    "deep_10x64_gauss",
    "resnet_digits_trained",
    "tiny_2-8-8-2_moons",
)


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_reference(name, shared):
    folder = shared / "nets/lipschitz"
    expected = json.loads((folder / "reference.json").read_text())[name]
    chain = load(folder, name)
    found = search.minimise(chain, seconds=60.0)
    bound = chain_upper(chain, found.multipliers)
    assert bound == pytest.approx(expected["lipsdp_neuron"], rel=1e-4)
    assert bound >= expected["best_lower"]
    assert found.floor_estimate <= expected["lipsdp_neuron"] * (1 + 1e-6)
    if expected["eclipse_fast"] is not None:
        value, lam = start.eclipse_fast(chain)
        assert value == pytest.approx(expected["eclipse_fast"], rel=1e-6)
        raised = riccati.split(chain, start.feasible(condense(chain), lam))
        assert chain_upper(chain, raised) <= value * (1 + 1e-5)


def test_tampered_multipliers_prove_nothing():
    chain = make("plain", 0)
    good = search.minimise(chain, seconds=2.0).multipliers
    assert chain_upper(chain, good) < math.inf
    for bad in (-1.0, 0.0, math.nan, math.inf, 1e-200):
        changed = [m.clone() for m in good]
        changed[1][2] = bad
        assert chain_upper(chain, changed) == math.inf
    assert chain_upper(chain, good[:1]) == math.inf
    assert chain_upper(chain, [m[:-1] for m in good]) == math.inf
    assert chain_upper(chain, [m * 0.5 for m in good]) == math.inf
    assert chain_upper(chain, [m.float() for m in good]) == math.inf


def matrix(tensor):
    return mp.matrix(tensor.tolist())


def precise(chain, multipliers):
    """The recursion in 60 digits, in the centred form, from the float multipliers."""
    ahead = matrix(chain.last).T * matrix(chain.last)
    for block, lam in zip(reversed(chain.blocks), reversed(multipliers), strict=True):
        free = [i for i in range(block.neurons) if bool(block.free[i])]
        low, high = (
            [mp.mpf(v) for v in block.low.tolist()],
            [mp.mpf(v) for v in block.high.tolist()],
        )
        if not block.neurons:
            ahead = matrix(block.skip).T * ahead * matrix(block.skip)
            continue
        inner, outer = matrix(block.inner), matrix(block.outer_matrix())
        middle = mp.diag([(a + b) / 2 for a, b in zip(low, high, strict=True)])
        straight = outer * middle * inner
        if block.skip_matrix() is not None:
            straight += matrix(block.skip_matrix())
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
def test_proof_is_above_sixty_digits(kind, scale):
    chain = make(kind, 5)
    chain = Chain(chain.blocks, chain.last * scale)
    multipliers = search.minimise(chain, seconds=2.0, tolerance=1e-3).multipliers
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
    assert chain_upper(nothing, search.minimise(nothing, seconds=1.0).multipliers) < 1e-6
    silent = feed_forward([torch.ones(3, 2).double(), torch.zeros(2, 3).double()])
    assert chain_upper(silent, search.minimise(silent, seconds=1.0).multipliers) < 1e-6
    huge = feed_forward([torch.ones(3, 2).double() * 1e200, torch.ones(2, 3).double() * 1e200])
    assert chain_upper(huge, search.minimise(huge, seconds=1.0).multipliers) == math.inf


def test_warm_start_and_blocks_only(monkeypatch):
    chain = make("deep", 1)
    best = search.minimise(chain, seconds=20.0)
    rough = search.minimise(chain, seconds=20.0, tolerance=1e-2)
    warm = search.minimise(chain, seconds=20.0, warm=rough.multipliers)
    assert warm.estimate == pytest.approx(best.estimate, rel=2e-5)
    monkeypatch.setattr("holdfast.sdp.chain.barrier.DENSE_NEURONS", 0)
    blocks = search.minimise(chain, seconds=20.0, tolerance=1e-3)
    assert blocks.estimate == pytest.approx(best.estimate, rel=2e-3)


def test_refuses_bad_chains():
    r = rand(0)
    with pytest.raises(InvalidInput, match="as follows"):
        feed_forward([r(3, 2), r(2, 4)])
    with pytest.raises(InvalidInput, match="finite"):
        feed_forward([r(3, 2) * math.nan, r(2, 3)])
    with pytest.raises(InvalidInput, match="float64"):
        feed_forward([r(3, 2).float(), r(2, 3).float()])
    with pytest.raises(InvalidInput, match="slopes in"):
        start.eclipse_fast(make("residual", 0))


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
    assert [block.neurons for block in chain.blocks] == [6, 6]
    bound = chain_upper(chain, search.minimise(chain, seconds=5.0).multipliers)
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
