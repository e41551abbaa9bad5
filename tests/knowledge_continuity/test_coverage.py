"""Everything that a certificate claims, from a model on, on samples of a population that is known.

x is uniform on [0, 1] and y a fair coin; the model's first layer is x, and the loss (x + y) / 2.
All truths are lengths of intervals, given the anchors, or an integral in one variable.
"""

import functools
import warnings

import pytest
import torch
from scipy import stats
from torch import nn

import holdfast
from holdfast.errors import HoldfastWarning
from holdfast.knowledge_continuity.evidence.edges import split
from holdfast.knowledge_continuity.measure import measure

DELTA, ETA = 0.1, 0.2
SAMPLES, CONFIDENCE = 1000, 0.95
# More failures than this come from claims that hold with this confidence once in a thousand runs.
MOST = int(stats.binom.isf(1e-3, SAMPLES, 1 - CONFIDENCE))


def loss(outputs, labels):
    return (outputs[:, 0] + labels) / 2


def draw(n, generator):
    return (
        torch.rand(n, 1, generator=generator, dtype=torch.float64),
        torch.randint(2, (n,), generator=generator),
    )


def doubled(n, generator):
    """Every example twice."""
    return [part.repeat(2, *[1] * (part.ndim - 1)) for part in draw(n // 2, generator)]


def oversampled(n, generator):
    """A few examples many times, as when a rare class is made frequent."""
    rows = torch.cat([torch.arange(n // 2), torch.randint(4, (n - n // 2,), generator=generator)])
    return [part[rows] for part in draw(n // 2, generator)]


def through_the_model(data, reference, **options):
    model = nn.Linear(1, 1).double()
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)
    whole = nn.Sequential(model, nn.Identity()).eval()
    return holdfast.knowledge(whole, data, ["0"], loss, reference=reference, **options)


def from_states(data, reference, **options):
    (x, y), given = data, None
    if reference is not None:
        given = {"0": reference[0]}, (reference[0][:, 0] + reference[1]) / 2
    return measure({"0": x}, (x[:, 0] + y) / 2, y, reference=given, **options)


WAYS = {
    "halves": (through_the_model, draw, lambda data, generator: None),
    "fresh": (through_the_model, draw, lambda data, generator: draw(40, generator)),
    "overlapping": (through_the_model, draw, lambda data, _: [part[:60] for part in data]),
    "shifted": (from_states, draw, lambda data, _: (data[0][:60] + 1e-7, data[1][:60])),
    "all": (from_states, draw, lambda data, _: (data[0] + 1e-7, data[1])),
    "doubled": (through_the_model, doubled, lambda data, generator: None),
    "rounds": (functools.partial(through_the_model, pairs=8), oversampled, lambda data, _: None),
    "oversampled": (through_the_model, oversampled, lambda data, generator: None),
}


def nearest_truth(x, losses, delta, eta):
    """Return P(near and differing by more than eta) and P(near) for the nearest of the anchors."""
    order = x.argsort()
    x, losses = x[order], losses[order]
    middle = (x[1:] + x[:-1]) / 2
    low = torch.cat([x.new_zeros(1), middle]).maximum(x - delta).clamp(0, 1)
    high = torch.cat([middle, x.new_ones(1)]).minimum(x + delta).clamp(0, 1)
    return bad_length(low, high, losses, eta), float((high - low).clamp(min=0).sum())


def bad_length(low, high, losses, eta):
    """Return the probability of loss changes above eta from `losses` on the intervals."""
    total = 0.0
    for y in (0, 1):
        good_low = (2 * (losses - eta) - y).maximum(low)
        good_high = (2 * (losses + eta) - y).minimum(high)
        length = (high - low).clamp(min=0) - (good_high - good_low).clamp(min=0)
        total += float(length.sum()) / 2
    return total


def pair_truth(delta, eta):
    """Return the same for two examples, their distance u having the density 2 - 2 u on [0, 1]."""

    def within(u):
        u = min(max(u, 0.0), 1.0)
        return 2 * u - u * u

    near = within(delta)
    alike = near - within(min(delta, 2 * eta))
    # Of different coins the change is |1 + u| / 2 or |1 - u| / 2, by which of the two is larger.
    larger = near - within(min(delta, 2 * eta - 1))
    smaller = near if 1 - delta > 2 * eta else near - within(delta) + within(1 - 2 * eta)
    return (alike + (larger + smaller) / 2) / 2, near


def slope_truth(floor, cap):
    """Return E[min(change, cap) / max(distance, floor)], by the midpoint rule."""
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    changes = [u / 2, u / 2, (1 + u) / 2, (1 - u) / 2]
    mean = sum(change.clamp(max=cap) for change in changes) / 4
    return float((mean / u.clamp(min=floor) * (2 - 2 * u)).mean())


def failures_of(found, anchors, losses):
    """Return the methods that claim something false, of any cell and of both of its bounds."""
    failed = set()
    for delta in (DELTA, 9.0):
        for eta in (0.0, ETA):
            for method, (bad, near), anchor in (
                ("nearest", nearest_truth(anchors, losses, delta, eta), None),
                ("anchor", nearest_truth(anchors[:1], losses[:1], delta, eta), 0),
                ("pairs", pair_truth(delta, eta), None),
            ):
                cell = found.certificate("0", delta, eta, CONFIDENCE, method, anchor)
                # Truths are sums of lengths; rounding must not make more than 1 of them.
                if cell.probability < min(bad, 1.0) or cell.conditional < min(bad / near, 1.0):
                    failed.add(method)
    slope = found.volatility_certificate("0", CONFIDENCE)
    if slope.upper < slope_truth(slope.floor, slope.cap):
        failed.add("slope")
    return failed


def count_failures(way, samples, **options):
    measured, sample, choose = WAYS[way]
    failed = dict.fromkeys(("nearest", "anchor", "pairs", "slope"), 0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(samples):
        data = sample(120, generator)
        reference = choose(data, generator)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HoldfastWarning)
            found = measured(data, reference, grid=([DELTA], [ETA]), near=0.1, **options)
        x, y = [part[split(120, 0)[0]] for part in data] if reference is None else reference
        for method in failures_of(found, x[:, 0], (x[:, 0] + y) / 2):
            failed[method] += 1
    return failed


def test_the_truths_are_those_of_a_large_sample():
    generator = torch.Generator().manual_seed(0)
    (x, y), (a, b) = draw(200_000, generator), draw(30, generator)
    a, losses, own = a[:, 0], (a[:, 0] + b) / 2, (x[:, 0] + y) / 2
    gap, place = (x - a).abs().min(1)
    for delta in (DELTA, 0.01, 9.0):
        for eta in (0.0, 0.05, ETA, 0.6):
            near = gap <= delta
            bad = near & ((own - losses[place]).abs() > eta)
            truths = nearest_truth(a, losses, delta, eta)
            assert [float(s.double().mean()) for s in (bad, near)] == pytest.approx(
                truths, abs=4e-3
            )
            half = slice(0, 100_000), slice(100_000, 200_000)
            apart = (x[half[0], 0] - x[half[1], 0]).abs()
            change = (own[half[0]] - own[half[1]]).abs()
            bad, near = (apart <= delta) & (change > eta), apart <= delta
            truths = pair_truth(delta, eta)
            assert [float(s.double().mean()) for s in (bad, near)] == pytest.approx(
                truths, abs=6e-3
            )
    exact = float((change.clamp(max=0.3) / apart.clamp(min=0.05)).mean())
    assert slope_truth(0.05, 0.3) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("way", WAYS)
def test_claims_hold_in_a_few_samples(way):
    assert sum(count_failures(way, 5).values()) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_claims_fail_no_more_often_than_they_say(way):
    # Where all rows are anchors nothing is claimed, so that few samples show as much as many.
    failed = count_failures(way, 50 if way == "all" else SAMPLES)
    assert max(failed.values()) <= (0 if way == "all" else MOST), failed


@pytest.mark.slow
@pytest.mark.parametrize("way", ["overlapping", "shifted", "all"])
def test_the_same_claims_fail_where_rows_that_repeat_are_counted(way):
    """What the test above would say of a library that counts anchors as trials."""
    assert count_failures(way, 60, repeats="draws")["nearest"] > 50
