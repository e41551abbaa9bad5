"""Rows that are anchors too, or repeat one another: found, told, and counted only when bad."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import holdfast
from holdfast.errors import HoldfastWarning
from holdfast.knowledge_continuity.evidence.binomial import binomial_upper, mean_upper, pairs_upper
from holdfast.knowledge_continuity.evidence.repeats import repeats
from holdfast.knowledge_continuity.measure import measure
from holdfast.knowledge_continuity.states.identity import row_identity, states_identity

GRID = ([0.8, 1.6], [0.1, 0.4])


def one_by_one(anchors, rows):
    """Return the same as `repeats`, row by row; a row that repeats stands for no other one."""
    room = 2.0**-20 * float(rows.norm(dim=1).median())
    kept, anchored, again = [], [], []
    for row in rows:
        anchored.append(any(float((row - a).norm()) <= room for a in anchors))
        again.append(
            not anchored[-1] and any(float((row - other).norm()) <= room for other in kept)
        )
        if not anchored[-1] and not again[-1]:
            kept.append(row)
    return torch.tensor(anchored), torch.tensor(again)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 40), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_the_fast_search_finds_what_the_slow_one_finds(seed, width, n, m):
    generator = torch.Generator().manual_seed(seed)
    anchors = torch.randn(m, width, generator=generator, dtype=torch.float64)
    rows = torch.randn(n, width, generator=generator, dtype=torch.float64)
    if seed % 3 == 0:  # many rows in one place
        anchors, rows = anchors.relu(), rows.relu()
    for some in (anchors, rows):
        if len(some):
            picked = torch.rand(n, generator=generator) < 0.3
            places = torch.randint(len(some), (int(picked.sum()),), generator=generator)
            noise = torch.randn(len(places), width, generator=generator, dtype=torch.float64)
            rows[picked] = some[places] + 1e-9 * noise
    for found, expected in zip(repeats(anchors, rows), one_by_one(anchors, rows), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("copies", [1, 5000])
def test_equal_rows_leave_one_each(copies):
    rows = torch.eye(8, dtype=torch.float64).repeat(copies, 1)
    anchored, again = repeats(rows[:3], rows)
    assert anchored.nonzero().flatten().remainder(8).unique().tolist() == [0, 1, 2]
    assert anchored.sum() == 3 * copies and again.sum() == 5 * (copies - 1)


def test_identities_tell_rows_apart_and_forgive_rounding_and_padding():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(400, 3, 8, 8, generator=generator)
    apart = row_identity(images)
    assert not any(mask.any() for mask in repeats(apart, row_identity(1 - images)))
    anchored, _ = repeats(apart, row_identity(images + 1e-7))
    assert anchored.all()
    ids = torch.randint(1, 9, (400, 5), generator=generator)
    mask = torch.ones_like(ids)
    short = row_identity({"input_ids": ids, "attention_mask": mask})
    padded = {"input_ids": nn.functional.pad(ids, (0, 2), value=7)}
    padded["attention_mask"] = nn.functional.pad(mask, (0, 2))
    assert torch.equal(row_identity(padded), short)
    different = len(ids.unique(dim=0))
    assert len(short.unique(dim=0)) == different < 400
    assert len(row_identity(ids).unique(dim=0)) == different


def test_identities_of_odd_inputs():
    assert len(row_identity(torch.tensor([0.0, 1.0, 1.0])).unique(dim=0)) == 2
    infinite = torch.tensor([[0.0, -torch.inf], [0.0, 1.0]])
    assert row_identity(infinite).isfinite().all()
    halves = {"inputs_embeds": torch.rand(4, 3, 2).bfloat16(), "flag": torch.tensor([True] * 4)}
    assert len(row_identity(halves).unique(dim=0)) == 4


def test_states_tell_rows_apart_by_all_layers_together():
    generator = torch.Generator().manual_seed(0)
    fine, coarse = torch.randn(50, 30, generator=generator), torch.ones(50, 2)
    own, beside = states_identity([fine, coarse], [fine[:9] + 1e-7, coarse[:9]])
    assert repeats(beside, own)[0].nonzero().flatten().tolist() == list(range(9))
    own, beside = states_identity([fine, coarse], [fine[:9] + 1, coarse[:9]])
    assert not any(mask.any() for mask in repeats(beside, own))


@given(st.integers(0, 60), st.integers(0, 60), st.floats(1e-4, 0.5))
@settings(max_examples=200, deadline=None)
def test_bounds_rise_with_bad_trials_and_fall_with_good_ones(bad, good, alpha):
    """What the argument in `repeats` rests on."""
    bound = binomial_upper(bad, bad + good, alpha)
    assert binomial_upper(bad, bad + good + 1, alpha) <= bound
    assert binomial_upper(bad + 1, bad + good + 1, alpha) >= bound


@given(st.floats(0, 1), st.floats(0, 1), st.integers(2, 400), st.floats(1e-4, 0.5))
@settings(max_examples=100, deadline=None)
def test_bounds_over_pairs_fall_with_rows_and_rise_with_means(mean, other, rows, alpha):
    low, high = sorted((mean, other))
    square = low**2
    assert mean_upper(low, square, rows, alpha) <= mean_upper(high, high**2, rows, alpha)
    assert mean_upper(low, square, rows + 2, alpha) <= mean_upper(low, square, rows, alpha)
    # The hinges that are tried differ: a bound from few of them is a larger one.
    slack = 1.02
    assert pairs_upper(low, rows, alpha) <= pairs_upper(high, rows, alpha)
    assert pairs_upper(low, 2 * rows, alpha) <= slack * pairs_upper(low, rows, alpha)


def draw(n, seed, width=3):
    """Return states and losses that do not follow them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator), torch.rand(n, generator=generator) * 2


def told_of(reference, states, losses, **options):
    with pytest.warns(HoldfastWarning, match="reference: of 400 certification rows") as caught:
        found = measure({"a": states}, losses, torch.zeros(400), reference=reference, **options)
    assert len(caught) == 1
    assert str(caught[0].message).removeprefix("reference: ") in found.notes
    return found


@pytest.mark.parametrize("method", ["nearest", "pairs"])
def test_half_of_the_rows_as_anchors_leaves_the_other_half(method):
    states, losses = draw(400, 0)
    found = told_of(({"a": states[:200]}, losses[:200]), states, losses, grid=GRID)
    rest = measure(
        {"a": states[200:]}, losses[200:], torch.zeros(200), grid=GRID,
        reference=({"a": states[:200]}, losses[:200]),
    )  # fmt: skip
    for delta in (0.8, 1.6, 1e9):
        mine, theirs = (k.certificate("a", delta, 0.4, method=method) for k in (found, rest))
        assert (mine.trials, mine.near) == (theirs.trials, theirs.near)
        assert mine.repeated == 200 and theirs.repeated == 0
        assert mine.probability >= theirs.probability
        assert "200 more repeat an anchor or another row" in mine.statement
        assert "more repeat" not in theirs.statement
        if method == "nearest":  # an anchor is never bad beside itself
            assert (mine.observed, mine.probability) == (theirs.observed, theirs.probability)
    slope = found.volatility_certificate("a")
    assert slope.rows == 200 and "200 more repeat" in slope.statement
    assert slope.upper >= rest.volatility_certificate("a").upper


@pytest.mark.parametrize("shift", [0.0, 1e-7])
def test_rows_that_all_are_anchors_prove_nothing_and_say_so(shift):
    states, losses = draw(400, 1)
    found = told_of(({"a": states + shift}, losses), states, losses, grid=GRID)
    for method in ("nearest", "anchor", "pairs"):
        anchor = 3 if method == "anchor" else None
        cell = found.certificate("a", 1.6, 0.4, method=method, anchor=anchor)
        assert cell.probability == cell.conditional == 1.0 and cell.vacuous
        assert cell.why[0] == "every certification row repeats an anchor or another row"
        assert cell.trials == 0 and cell.repeated == 400
    assert found.volatility_certificate("a").vacuous
    assert all(cell.vacuous for row in found.frontier("a").cells for cell in row)


def test_every_repeat_that_is_bad_counts():
    """Labels differ, so that rows at distance 0 have other losses: all of them are bad trials."""
    states, losses = draw(400, 2)
    found = told_of(({"a": states[:200]}, losses[:200] + 1), states, losses, grid=GRID)
    plainly = measure(
        {"a": states}, losses, torch.zeros(400), reference=({"a": states[:200]}, losses[:200] + 1),
        grid=GRID, repeats="draws",
    )  # fmt: skip
    mine, theirs = (k.certificate("a", 0.8, 0.4) for k in (found, plainly))
    assert mine.observed == theirs.observed > 200 and theirs.trials == 400
    assert mine.probability == binomial_upper(mine.observed, 200 + 200, 0.05 / mine.multiplicity)
    assert theirs.repeated is None and "as the user says" in theirs.statement


@pytest.mark.parametrize("rounds", ["all", 5])
def test_pairs_count_bad_ones_of_all_rows_and_good_ones_of_single_rows(rounds):
    """Against sums over all pairs, one by one."""
    states, losses = (torch.cat([part, part[:15]]).double() for part in draw(60, 3))
    anchors = [part.double() for part in draw(9, 4)]
    found = measure(
        {"a": states}, losses, torch.zeros(75), reference=({"a": anchors[0]}, anchors[1]),
        grid=GRID, pairs=10**6 if rounds == 5 else "all",
    )  # fmt: skip
    gap, change = torch.cdist(states, states), (losses[:, None] - losses).abs()
    real = torch.ones(75, 75, dtype=torch.bool).triu(1)
    single = torch.zeros(75, dtype=torch.bool)
    single[:60] = True
    alone = real & single[:, None] & single
    bad = (gap <= 1.6) & (change > 0.4)
    extra = int((bad & real & ~alone).sum())
    cell = found.certificate("a", 1.6, 0.4, method="pairs")
    assert cell.observed == int((bad & real).sum()) and cell.trials == 60 * 59 // 2
    assert cell.near == int(((gap <= 1.6) & alone).sum())
    mean = cell.observed / (cell.trials + extra)
    worth = 60 if rounds == "all" else 2 * (75 // 2 - 15)
    assert cell.probability == pairs_upper(mean, worth, 0.05 / cell.multiplicity)
    slope = found.volatility_certificate("a")
    ratio = change.clamp(max=slope.cap) / gap.clamp(min=slope.floor)
    total = float(ratio[real].double().sum()) / (60 * 59 / 2)
    assert total <= slope.observed <= total * 1.01


def test_draws_that_are_equal_count_if_the_user_says_so():
    states, losses = (part.repeat(2, *[1] * (part.ndim - 1)) for part in draw(100, 5))
    copies = measure({"a": states}, losses, torch.zeros(200), grid=GRID)
    draws = measure({"a": states}, losses, torch.zeros(200), grid=GRID, repeats="draws")
    assert any("repeat another row" in note for note in copies.notes)
    assert not any("repeat" in note for note in draws.notes)
    mine, theirs = (k.certificate("a", 1e9, 0.4) for k in (copies, draws))
    assert mine.trials + mine.repeated == theirs.trials == 100 and mine.trials < 60
    for name, estimate in dataclasses.asdict(draws)["volatility"].items():
        assert dataclasses.asdict(copies)["volatility"][name] == estimate


def network(width=4):
    """Its second layer maps all rows with negative sums to one point."""
    torch.manual_seed(0)
    first, last = nn.Linear(3, width), nn.Linear(width, 2)
    nn.init.constant_(first.weight, 1.0)
    nn.init.zeros_(first.bias)
    return nn.Sequential(first, nn.ReLU(), last).eval()


def test_rows_that_one_layer_maps_to_one_point_are_draws_of_their_own():
    states, _ = draw(300, 6)
    labels = torch.arange(300) % 2
    found = holdfast.knowledge(network(), (states, labels))
    assert found.collisions["1"] > 0.2
    assert not any("repeat" in note for note in found.notes)
    for layer in found.layers:
        cell = found.certificate(layer, 1e9, 0.1)
        assert cell.trials == 150 and cell.repeated == 0
    # At distance 0, rows of the two labels have different losses: these are bad, and near.
    pairs = found.certificate("1", 1e-9, 1e-3, method="pairs")
    assert pairs.observed > 100


def test_a_reference_inside_the_data_is_seen_whatever_batches_it_comes_in():
    rows, _ = draw(400, 7)
    labels = torch.arange(400) % 2
    batches = [(rows[i : i + 7], labels[i : i + 7]) for i in range(0, 98, 7)]
    with pytest.warns(HoldfastWarning, match="98 are anchors too and 0 repeat another row"):
        found = holdfast.knowledge(network(), (rows, labels), reference=batches)
    assert found.certificate("2", math.inf, 0.1).trials == 302
