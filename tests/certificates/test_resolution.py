"""Distances of data against slow references."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.arguments import NORMS
from holdfast.certificates import resolution
from holdfast.certificates.resolution import neighbour_distance, quantisation_step


def by_hand(inputs: torch.Tensor, labels: torch.Tensor, norm: float) -> float | None:
    rows = list(zip(inputs.double().flatten(1), labels.tolist(), strict=True))
    halves = []
    for row, label in rows:
        others = [float((row - far).norm(norm)) for far, other in rows if other != label]
        halves.append(min(others, default=math.inf) / 2)
    median = sorted(halves)[(len(halves) - 1) // 2]
    return None if math.isinf(median) else median


@pytest.mark.parametrize("norm", NORMS)
@given(seed=st.integers(0, 2**31), classes=st.integers(1, 4))
def test_neighbours_are_those_of_other_classes(norm, seed, classes):
    torch.manual_seed(seed)
    inputs, labels = torch.randn(9, 2, 3), torch.randint(classes, (9,))
    found, expected = neighbour_distance(inputs, labels, norm), by_hand(inputs, labels, norm)
    assert (found is None) == (expected is None)
    assert found is None or found == pytest.approx(expected, rel=1e-12)


def test_blocks_and_the_largest_number_of_rows(monkeypatch):
    torch.manual_seed(0)
    inputs, labels = torch.randn(300, 4), torch.randint(3, (300,))
    assert neighbour_distance(inputs, labels, 2.0) == pytest.approx(by_hand(inputs, labels, 2.0))
    monkeypatch.setattr(resolution, "MOST_ROWS", 20)
    some = by_hand(inputs[:20], labels[:20], 2.0)
    assert neighbour_distance(inputs, labels, 2.0) == pytest.approx(some)


@given(levels=st.sets(st.integers(0, 255), min_size=2))
def test_a_grid_is_recognised(levels):
    grid = sorted(levels)
    values = torch.tensor(grid, dtype=torch.float32).reshape(1, -1) / 255
    step = quantisation_step(values)
    gaps = [b - a for a, b in itertools.pairwise(grid)]
    if all((level - grid[0]) % min(gaps) == 0 for level in grid):
        assert step == pytest.approx(min(gaps) / 255, rel=1e-4)
    else:
        assert step is None


def test_measured_values_lie_on_no_grid():
    torch.manual_seed(0)
    assert quantisation_step(torch.randn(50, 4)) is None
    assert quantisation_step(torch.randn(300, 300)) is None
    assert quantisation_step(torch.ones(3, 4)) is None
    assert quantisation_step(torch.tensor([[0.0, 1e-30, 1.0]])) is None
