"""The blockwise pass over pairs: against a double loop, for any block, within its memory."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from holdfast.continuity.pairs import Kernel, pair_sums, resolve_kernel
from holdfast.errors import InvalidInput

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
    tensors = torch.tensor(states), torch.tensor(losses), torch.tensor(labels)
    sums = pair_sums(*tensors, distance, resolve_kernel(name, clip), block)
    for field in FIELDS:
        assert getattr(sums, field).tolist() == pytest.approx(expected[field], abs=1e-12), field


def sample(n, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(n, width, generator=generator)
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
        rise = (m + step) * ahead(change, distance) - (m - step) * behind(change, distance)
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
