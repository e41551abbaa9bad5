"""Bins: against a binary search, at every edge and beside it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.evidence.bins import Bins

POSITIVE = st.floats(min_value=1e-300, max_value=1e300)


@given(st.lists(POSITIVE, min_size=1, max_size=40, unique=True), st.lists(POSITIVE, max_size=40))
def test_agrees_with_a_binary_search(edges, values):
    edges = sorted(edges)
    around = [math.nextafter(edge, side) for edge in edges for side in (0.0, math.inf)]
    values = torch.tensor([0.0, *values, *edges, *around], dtype=torch.float64)
    expected = torch.bucketize(values, torch.tensor(edges, dtype=torch.float64))
    assert torch.equal(Bins(edges)(values), expected)


@pytest.mark.parametrize("ratio", [1.5, 1.0003, 1 + 1e-9])
def test_edges_may_be_close(ratio):
    edges = 0.3 * ratio ** torch.arange(40, dtype=torch.float64)
    values = torch.rand(5, 1000, dtype=torch.float64) * edges[-1] * 1.2
    assert torch.equal(Bins(edges)(values), torch.bucketize(values, edges))


@pytest.mark.parametrize("edges", [[], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [1.0, math.inf]])
def test_what_is_no_edges_is_refused(edges):
    with pytest.raises(InvalidInput, match="edges"):
        Bins(edges)
