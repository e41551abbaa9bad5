"""Bounds on the expected slope and on what happens between inputs: exact truths and coverage."""

import math

import pytest
import torch

from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.evidence.binomial import mean_upper, pairs_upper
from holdfast.knowledge_continuity.evidence.edges import split
from holdfast.knowledge_continuity.measure import measure

# Anchors 0, .1, ..., 1: near distance .1 (the 10 % nearest pairs), largest loss change 1.
ANCHORS = torch.linspace(0, 1, 11, dtype=torch.float64)


def uniform(n, seed, scale=1.0):
    """x uniform on [0, 1], layer scale x, loss x."""
    x = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return measure(
        {"h": scale * x[:, None]}, x, torch.zeros(n), near=0.1,
        reference=({"h": scale * ANCHORS[:, None]}, ANCHORS), grid=([0.3 * scale], [0.2]),
    )  # fmt: skip


def expected(floor):
    """E[|x - x'| / max(|x - x'|, t)] = 1 - t + t^2 / 3: exact case E2."""
    return 1 - floor + floor**2 / 3


def test_the_bound_is_the_formula_and_beats_the_hinge_for_small_slopes():
    """KNOWLEDGE.md 3b, B4."""
    mean, square, m, share = 0.0476, 0.0025, 1000, math.log(2 / 0.05)
    by_hand = mean + math.sqrt(2 * share / m * (square + share / (2 * m))) + share / m
    bound = mean_upper(mean, square, 2000, 0.05)
    assert by_hand <= bound <= by_hand * (1 + 1e-8)
    assert bound < pairs_upper(mean, 2000, 0.05)
    assert mean_upper(0.0, 0.0, 1, 0.05) == mean_upper(0.9, 0.9, 8, 0.05) == 1.0
    with pytest.raises(InvalidInput, match="alpha"):
        mean_upper(0.5, 0.5, 10, math.nan)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pairs", ["all", 10**6])
def test_the_mean_is_that_of_the_certification_rows(dtype, pairs):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(90, 5, generator=generator).to(dtype)
    states[40:60] = states[0]
    losses = torch.rand(90, generator=generator).double() ** 4
    knowledge = measure(
        {"h": states}, losses, torch.zeros(90), near=0.3, pairs=pairs, repeats="draws"
    )
    found = knowledge.volatility_certificate("h")
    tests, n = split(90, 0)[1].tolist(), 45
    total = 0.0
    for i in tests:
        for j in tests:
            change = min(abs(float(losses[i] - losses[j])), found.cap)
            gap = float((states[i].double() - states[j].double()).norm())
            total += change / max(gap, found.floor)
    exact = total / (n * (n - 1))
    assert exact <= found.observed <= exact * (1 + (3e-3 if dtype == torch.float32 else 1e-5))
    assert found.observed < found.upper and found.rows == n
    assert found.floor == knowledge.near_radius["h"]


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_exact_case_e2_holds_and_inputs_are_a_constant_away(scale):
    """The layer is scale x: its Lipschitz constant is attained, and nothing is lost by it."""
    knowledge = uniform(4000, 0, scale)
    layer = knowledge.volatility_certificate("h")
    inputs = knowledge.volatility_certificate("h", front_upper=scale)
    assert layer.floor == pytest.approx(0.1 * scale) and layer.cap == 1.0
    truth = expected(0.1)
    assert truth <= layer.upper * scale <= 1.1 * truth
    assert inputs.upper == pytest.approx(layer.upper * scale, rel=1e-12)
    assert inputs.floor == pytest.approx(0.1)
    assert not layer.vacuous and not inputs.vacuous


def test_near_inputs_are_near_in_the_layer():
    knowledge = uniform(4000, 1, 3.0)
    for method in ("pairs", "nearest"):
        layer = knowledge.certificate("h", 0.88, 0.2, method=method)
        inputs = knowledge.certificate("h", 0.29, 0.2, method=method, front_upper=3.0)
        assert inputs.probability == layer.probability
        beyond = knowledge.certificate("h", 0.31, 0.2, method=method, front_upper=3.0)
        assert beyond.delta == math.inf and beyond.probability >= inputs.probability
        assert (inputs.radius, inputs.front_upper, inputs.delta) == (0.29, 3.0, layer.delta)
        assert inputs.conditional == 1.0 and not inputs.vacuous
    # P(|x - x'| > .2 and <= .3) = .8^2 - .7^2.
    pairs = knowledge.certificate("h", 0.29, 0.2, method="pairs", front_upper=3.0)
    assert 0.8**2 - 0.7**2 <= pairs.probability <= 0.25


def test_statements_say_what_is_assumed_and_what_is_not_claimed():
    knowledge = uniform(400, 2)
    found = [
        knowledge.volatility_certificate("h"),
        knowledge.volatility_certificate("h", front_upper=2.0),
        knowledge.certificate("h", 0.1, 0.2, front_upper=2.0),
        knowledge.certificate("h", 0.1, 0.2, method="anchor", anchor=2, front_upper=2.0),
    ]
    for certificate in found:
        for words in (
            "with confidence 0.95", "drawn from the same distribution", "'h'", "void it",
            "not a statement about all inputs", "adversarial inputs", "other distributions",
        ):  # fmt: skip
            assert words in certificate.statement
        if certificate.front_upper is not None:
            assert "Lipschitz with constant 2" in certificate.statement
            assert "given that it lands" not in certificate.statement


def test_few_rows_say_nothing_and_are_told_so():
    found = uniform(4, 3).volatility_certificate("h", confidence=0.999)
    assert found.vacuous and found.statement.startswith("VACUOUS: the bound is cap / floor")
    x = torch.rand(3, dtype=torch.float64)
    alone = measure(
        {"h": x[:, None]}, x, torch.zeros(3), reference=({"h": ANCHORS[:, None]}, ANCHORS)
    )
    assert alone.volatility_certificate("h").vacuous


@pytest.mark.parametrize("front_upper", [0.0, -1.0, math.inf, math.nan])
def test_what_is_no_constant_is_refused(front_upper):
    knowledge = uniform(40, 4)
    with pytest.raises(InvalidInput, match="front_upper"):
        knowledge.volatility_certificate("h", front_upper=front_upper)
    with pytest.raises(InvalidInput, match="front_upper"):
        knowledge.certificate("h", 0.1, 0.1, front_upper=front_upper)
    with pytest.raises(InvalidInput, match="confidence"):
        knowledge.volatility_certificate("h", confidence=1.0)


TRIALS = 1000


def enough(level, trials=TRIALS):
    """Return the fewest that must hold, four standard errors below the level."""
    return level * trials - 4 * math.sqrt(trials * level * (1 - level))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:reference")  # a row may come as close by chance
@pytest.mark.parametrize("n", [20, 61, 400])
def test_the_expected_slope_is_covered(n):
    truth, level, covered = expected(0.1), 0.8, 0
    for seed in range(TRIALS):
        found = uniform(n, seed, 3.0).volatility_certificate("h", level, front_upper=3.0)
        covered += found.upper >= truth
    assert covered >= enough(level)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:reference")  # a row may come as close by chance
@pytest.mark.parametrize("method", ["pairs", "nearest", "anchor"])
def test_what_happens_between_inputs_is_covered(method):
    """x uniform, layer 3 x, loss x: within .29 of each other and a loss change above .2."""
    grid = torch.linspace(0, 1, 2_000_001, dtype=torch.float64)
    apart = (grid - ANCHORS[3]).abs() if method == "anchor" else None
    truth = 0.8**2 - (1 - 0.29) ** 2
    if apart is not None:
        truth = float(((apart <= 0.29) & (apart > 0.2)).double().mean())
    if method == "nearest":
        truth = 0.0  # no point is further than .05 from its nearest anchor
    covered, level = 0, 0.8
    for seed in range(TRIALS):
        found = uniform(60, seed, 3.0).certificate(
            "h", 0.29, 0.2, level, method, 3 if method == "anchor" else None, front_upper=3.0
        )
        covered += found.probability >= truth
    assert covered >= enough(level)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:reference")  # a row may come as close by chance
@pytest.mark.parametrize("n", [30, 81, 400])
@pytest.mark.parametrize("kernel", ["product", "rare", "dull"])
def test_the_mean_bound_covers(kernel, n):
    """Kernels of dependent pairs: small everywhere, rarely 1, nearly constant."""
    kernels = {
        "product": (lambda x, y: x * y / 5, 1 / 20),
        "rare": (lambda x, y: ((x - y).abs() < 0.02).double(), 0.04 - 0.02**2),
        "dull": (lambda x, y: 0.4 + 0.1 * (x - y).square(), 0.4 + 0.1 / 6),
    }
    function, truth = kernels[kernel]
    generator = torch.Generator().manual_seed(n)
    first, second = torch.triu_indices(n, n, 1)
    covered = 0
    for _ in range(1500):
        x = torch.rand(n, generator=generator, dtype=torch.float64)
        g = function(x[first], x[second])
        covered += mean_upper(float(g.mean()), float(g.square().mean()), n, 0.2) >= truth
    assert covered >= enough(0.8, 1500)
