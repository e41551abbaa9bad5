"""The blockwise pass over pairs: against a double loop, for any block, within its memory."""

import dataclasses
import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.evidence.bins import Bins
from holdfast.knowledge_continuity.evidence.grid import Grid
from holdfast.knowledge_continuity.pairs.kernels import Kernel, resolve_kernel
from holdfast.knowledge_continuity.pairs.pairs import PairState, Question, _matchings, sampled_sums
from holdfast.knowledge_continuity.pairs.pairs import pair_sums as sums_of_pairs
from holdfast.knowledge_continuity.pairs.points import BLOCK, Points


def pair_sums(states, losses, labels, distance, kernel, block=BLOCK, **asked):
    question = Question(distance, kernel, **asked)
    return sums_of_pairs(Points(states, losses, labels), question, block)


FIELDS = ("same", "other", "rise", "distance", "collisions", "same_pairs", "other_pairs")


def distance_between(name, u, v):
    differences = [abs(x - y) for x, y in zip(u, v, strict=True)]
    return {"euclidean": math.hypot(*differences), "manhattan": sum(differences)}.get(
        name, max(differences)
    )


def weight(kernel, clip, change, distance):
    clipped = max(distance, clip or 0.0)
    if kernel == "one_plus":
        return change / (1 + clipped)
    return change / clipped if clipped else 0.0


def reference(states, losses, labels, distance, kernel):
    """Return the sums of every row by the definition, one pair at a time."""
    name, clip = kernel
    sums = {field: [0.0] * len(losses) for field in FIELDS}
    for i, j in ((i, j) for i in range(len(losses)) for j in range(len(losses)) if i != j):
        d = distance_between(distance, states[i], states[j])
        w = weight(name, clip, abs(losses[i] - losses[j]), d)
        kind = "same" if labels[i] == labels[j] else "other"
        sums[kind][i] += w
        sums[f"{kind}_pairs"][i] += 1
        sums["rise"][i] += w if losses[j] > losses[i] else 0.0
        sums["distance"][i] += d
        sums["collisions"][i] += d == 0
    return sums


@st.composite
def points(draw):
    """Draw states on a coarse grid, so that duplicates and equal losses are common."""
    n, width = draw(st.integers(2, 9)), draw(st.integers(1, 3))
    coordinate = st.integers(-3, 3).map(lambda value: value / 2)
    rows = st.lists(coordinate, min_size=width, max_size=width)
    states = draw(st.lists(rows, min_size=n, max_size=n))
    losses = draw(st.lists(st.integers(0, 4).map(lambda v: v / 4), min_size=n, max_size=n))
    labels = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    return states, losses, labels


@settings(max_examples=80, deadline=None)
@given(
    points(),
    st.sampled_from(["euclidean", "manhattan", "chebyshev"]),
    st.sampled_from(["inverse", "one_plus"]),
    st.sampled_from([None, 0.75]),
    st.integers(1, 5),
)
def test_agrees_with_the_double_loop(drawn, distance, name, clip, block):
    states, losses, labels = drawn
    expected = reference(states, losses, labels, distance, (name, clip))
    tensors = torch.tensor(states).double(), torch.tensor(losses), torch.tensor(labels)
    sums = pair_sums(*tensors, distance, resolve_kernel(name, clip), block)
    for field in FIELDS:
        assert getattr(sums, field).tolist() == pytest.approx(expected[field], abs=1e-12), field


def sample(n, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(n, width, generator=generator, dtype=torch.float64)
    return states, torch.rand(n, generator=generator), torch.randint(3, (n,), generator=generator)


@pytest.mark.parametrize("distance", ["euclidean", "angular"])
def test_blocks_do_not_change_the_sums(distance):
    tensors = sample(41)
    whole = pair_sums(*tensors, distance, Kernel(), 1000)
    for block in (1, 7, 40, 41):
        tiled = pair_sums(*tensors, distance, Kernel(), block)
        for field in FIELDS:
            assert torch.allclose(getattr(tiled, field), getattr(whole, field), rtol=1e-9), field


def test_the_order_of_rows_does_not_matter():
    states, losses, labels = sample(50)
    shuffle = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    straight = pair_sums(states, losses, labels, "euclidean", Kernel(), 16)
    shuffled = pair_sums(
        states[shuffle], losses[shuffle], labels[shuffle], "euclidean", Kernel(), 16
    )
    for field in FIELDS:
        assert torch.allclose(getattr(straight, field)[shuffle], getattr(shuffled, field)), field


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.numel())
        return result


def test_no_tensor_is_larger_than_a_tile():
    n, block = 200, 32
    tensors = sample(n, width=8)
    with Largest() as largest:
        pair_sums(*tensors, "euclidean", Kernel(), block)
    assert block**2 <= largest.entries < 4 * block**2 < n * n


def test_many_duplicates_stay_within_the_tile_and_collide():
    states = torch.randn(5, 40, generator=torch.Generator().manual_seed(3)).repeat(30, 1)
    losses = torch.arange(150.0)
    with Largest() as largest:
        sums = pair_sums(states, losses, losses, "euclidean", Kernel(), 50)
    assert largest.entries <= 50 * 50
    assert sums.collisions.tolist() == [29.0] * 150


def test_gradients_are_not_kept():
    states, losses, labels = sample(8)
    sums = pair_sums(states.requires_grad_(), losses, labels, "euclidean", Kernel())
    assert not sums.total.requires_grad


def test_offset_slope_is_the_derivative():
    change, distance = torch.tensor([0.5, 2.0]).double(), torch.tensor([0.1, 3.0]).double()
    for clip in (0.0, 0.4):
        step, m = 1e-6, 1.7
        ahead, behind = Kernel(m + step, clip), Kernel(m - step, clip)
        rises = (
            (m + step) * ahead(change.clone(), distance),
            (m - step) * behind(change.clone(), distance),
        )
        rise = rises[0] - rises[1]
        slope = Kernel(m, clip).offset_slope(change, distance)
        assert torch.allclose(slope, rise / (2 * step), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "clip", "message"),
    [
        ("invers", None, "did you mean 'inverse'"),
        ("inverse", 0.0, "above 0"),
        ("inverse", math.inf, "finite"),
        ("inverse", math.nan, "finite"),
    ],
)
def test_kernels_that_do_not_exist_are_refused(name, clip, message):
    with pytest.raises(InvalidInput, match=message):
        resolve_kernel(name, clip)


def parts(n=60, **asked):
    tensors = sample(n)
    return Points(*tensors), Question("euclidean", Kernel(), **asked), tensors


def same_sums(left, right):
    fields = [field.name for field in dataclasses.fields(left)]
    for name in fields:
        mine, theirs = getattr(left, name), getattr(right, name)
        if isinstance(mine, torch.Tensor):
            assert torch.allclose(mine, theirs, rtol=1e-12), name
        else:
            assert mine == pytest.approx(theirs), name


def test_work_can_be_split_and_merged():
    roles = torch.arange(60) % 2
    grid = Grid(Bins([1.0, 2.0]), Bins([0.2]), roles)
    points, question, _ = parts(near=2.0, floor=1.5, grid=grid)
    tiles = list(points.tiles(16))
    workers = [PairState(points, question).update(tiles[i::3]) for i in range(3)]
    merged = workers[0].merge(workers[1]).merge(workers[2]).result()
    same_sums(merged, sums_of_pairs(points, question, 16))


def test_pairs_left_out_or_taken_twice_are_noticed():
    points, question, _ = parts()
    tiles = list(points.tiles(16))
    with pytest.raises(InvalidInput, match="of 1770 pairs, wanted every tile once"):
        PairState(points, question).update(tiles[1:]).result()
    with pytest.raises(InvalidInput, match="every tile once"):
        PairState(points, question).update([*tiles, tiles[3]]).result()
    other = PairState(Points(*sample(61)), question)
    with pytest.raises(InvalidInput, match="61 rows"):
        PairState(points, question).merge(other)


def test_near_pairs_floor_squares_and_the_steepest_pair():
    near, floor = 1.8, 1.2
    points, question, (states, losses, labels) = parts(near=near, floor=floor)
    sums = sums_of_pairs(points, question, 16)
    distances, change = torch.cdist(states, states), (losses[:, None] - losses).abs().double()
    weights = (change / distances).fill_diagonal_(0)
    close = (distances <= near) & ~torch.eye(60, dtype=torch.bool)
    assert torch.equal(sums.near_pairs, close.sum(1).double())
    assert torch.allclose(sums.near, (weights * close).sum(1))
    lifted = (change / distances.clamp(min=floor)).fill_diagonal_(0)
    assert torch.allclose(sums.total + sums.lifted, lifted.sum(1))
    assert sums.squares == pytest.approx(float(weights.square().sum()))
    same = weights * (labels[:, None] == labels)
    value, i, j = sums.steepest
    assert value == pytest.approx(float(same.max())) == pytest.approx(float(same[i, j]))


@pytest.mark.parametrize("block", [7, 60])
def test_counts_by_distance_loss_change_and_role(block):
    roles = (torch.arange(60) % 3 > 0).long()
    edges, etas = [1.0, 1.5, 3.0], [0.1, 0.5]
    grid = Grid(Bins(edges), Bins(etas), roles)
    points, question, (states, losses, _) = parts(grid=grid)
    counts = sums_of_pairs(points, question, block).counts
    expected = torch.zeros(4, 3, 3, dtype=torch.int64)
    for i in range(60):
        for j in range(i):
            d, c = float((states[i] - states[j]).norm()), float((losses[i] - losses[j]).abs())
            g, e = sum(d > edge for edge in edges), sum(c > eta for eta in etas)
            expected[g, e, roles[i] + roles[j]] += 1
    assert torch.equal(counts, expected)


@pytest.mark.parametrize("n", [2, 9, 20])
def test_rounds_pair_up_every_row_and_all_rounds_are_all_pairs(n):
    seen = [
        sorted(zip(*map(torch.Tensor.tolist, pairs), strict=True))
        for pairs in _matchings(n, 1000, 3)
    ]
    flat = [pair for turn in seen for pair in turn]
    assert all(a < b for a, b in flat)
    assert len(flat) == len(set(flat)) == n * (n - 1) // 2
    for turn in seen:
        assert len({row for pair in turn for row in pair}) == 2 * len(turn) == n - n % 2


def test_all_rounds_give_what_all_tiles_give():
    grid = Grid(Bins([1.0, 2.0]), Bins([0.2]), torch.ones(60, dtype=torch.int64))
    points, question, _ = parts(near=2.0, floor=1.5, grid=grid)
    everything = dataclasses.replace(sums_of_pairs(points, question), steepest=None)
    same_sums(sampled_sums(points, question, 10**6, 0), everything)
    some = sampled_sums(points, question, 5, 0)
    assert some.pairs.tolist() == [5.0] * 60


def test_lower_matrix_precision_is_the_users_and_not_ours():
    before = torch.get_float32_matmul_precision()
    seen = []

    def watching(a, b):
        seen.append(torch.get_float32_matmul_precision())
        return torch.cdist(a, b)

    try:
        torch.set_float32_matmul_precision("medium")
        pair_sums(*sample(5), watching, Kernel())
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) == {"highest"}


@pytest.mark.parametrize("clip", [None, 0.9])
def test_float32_states_lose_nothing_that_shows(clip):
    """Losses far from 0, so that their differences cancel unless they are taken with care."""
    states, losses, labels = sample(90, width=40)
    losses = 1e6 + losses.double() * 1e-3
    kernel = resolve_kernel("inverse", clip)
    states = states.float()
    states[7] = states[3] + 1e-6  # near, and computed again
    exact = sums_of_pairs(Points(states.double(), losses, labels), Question("euclidean", kernel))
    found = pair_sums(states, losses, labels, "euclidean", kernel, 32, near=4.0, floor=5.0)
    for field in FIELDS:
        assert torch.allclose(getattr(found, field), getattr(exact, field), rtol=1e-5), field
    assert found.total.dtype == torch.float64


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e25])
def test_weights_beyond_float32_are_taken_in_float64(scale):
    states, losses, labels = sample(40)
    large = pair_sums(states.float() * scale, losses * 1e6, labels, "euclidean", Kernel())
    usual = pair_sums(states.float(), losses * 1e6, labels, "euclidean", Kernel())
    assert torch.allclose(large.total * scale, usual.total, rtol=1e-4)
    assert large.squares * scale**2 == pytest.approx(usual.squares, rel=1e-4)


def test_a_callable_may_keep_what_it_returns():
    states, losses, labels = sample(12)
    kept = torch.cdist(states, states)
    before = kept.clone()
    order = losses.argsort(stable=True)
    inverse = kept[order][:, order].clone()
    pair_sums(states, losses, labels, lambda a, b: inverse, Kernel())
    assert torch.equal(inverse, before[order][:, order])


def test_squares_of_tiles_hold_every_tile_once(monkeypatch):
    monkeypatch.setattr(Points, "side", functools.partialmethod(Points.side, 2))
    points, question, _ = parts()
    assert points.side() == 2
    tiles = [(a.start, b.start) for a, b in points.tiles(8)]
    assert sorted(tiles) == [(i, j) for i in range(0, 60, 8) for j in range(i, 60, 8)]
    same_sums(sums_of_pairs(points, question, 8), sums_of_pairs(points, question, 60))
