"""Distances: against plain formulas, near pairs, equal rows, and what is refused."""

import math

import pytest
import torch

from holdfast.arguments import look_up
from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.pairs.distance import (
    DISTANCES,
    block_distances,
    paired_distances,
    relative_error,
)

NAMED = sorted(DISTANCES)


def reference(name, u, v):
    differences = [abs(x - y) for x, y in zip(u, v, strict=True)]
    if name == "manhattan":
        return math.fsum(differences)
    if name == "chebyshev":
        return max(differences)
    if name == "euclidean":
        return math.hypot(*differences)
    cosine = math.fsum(x * y for x, y in zip(u, v, strict=True)) / math.hypot(*u) / math.hypot(*v)
    return math.acos(max(-1.0, min(1.0, cosine))) / math.pi


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_agrees_with_the_plain_formula(name, dtype):
    generator = torch.Generator().manual_seed(0)
    a = (torch.randn(7, 5, generator=generator) + 3).to(dtype)
    b = torch.randn(4, 5, generator=generator).to(dtype)
    expected = [[reference(name, u, v) for v in b.tolist()] for u in a.tolist()]
    distances = block_distances(name, a, b)
    assert distances.dtype == torch.float64
    assert torch.allclose(distances, torch.tensor(expected).double(), rtol=1e-6)


@pytest.mark.parametrize("name", NAMED)
def test_equal_rows_are_at_distance_exactly_zero(name):
    rows = torch.randn(40, 300, generator=torch.Generator().manual_seed(1)) + 5
    distances = block_distances(name, rows, rows.clone())
    assert torch.equal(distances.diagonal(), torch.zeros(40).double())
    assert (distances + torch.eye(40) > 0).all()


@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3, 1e-6])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_near_pairs_keep_their_distance(gap, spread):
    """Rows of norm about 29 in 768 dimensions, once all in one place and once spread out."""
    generator = torch.Generator().manual_seed(2)
    width = 768
    common = torch.randn(1, width, generator=generator, dtype=torch.float64) * 29 / width**0.5
    apart = torch.randn(64, width, generator=generator, dtype=torch.float64) * 29 / width**0.5
    a = common + spread * apart
    directions = torch.nn.functional.normalize(
        torch.randn(64, width, generator=generator, dtype=torch.float64), dim=1
    )
    b = a + gap * directions
    true = torch.linalg.vector_norm(a - b, dim=1)
    found = block_distances("euclidean", a, b).diagonal()
    assert ((found - true).abs() <= 1e-6 * true).all()


@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3])
def test_near_pairs_of_float32_rows_keep_their_distance(gap):
    """The product of float32 rows of norm 29 is wrong by several units at these distances."""
    generator = torch.Generator().manual_seed(5)
    a = torch.randn(64, 768, generator=generator) * 29 / 768**0.5
    step = torch.nn.functional.normalize(torch.randn(64, 768, generator=generator), dim=1)
    b = a + gap * step
    true = torch.linalg.vector_norm(a.double() - b.double(), dim=1)
    found = block_distances("euclidean", a, b).diagonal()
    assert ((found - true).abs() <= 1e-6 * true).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e-3, 1.0, 1e12, 1e25])
@pytest.mark.parametrize("width", [1, 3, 400])
def test_float32_rows_are_within_their_error_at_any_scale(scale, width):
    generator = torch.Generator().manual_seed(6)
    a = scale * torch.randn(60, width, generator=generator)
    gaps = torch.logspace(-6, 1, 60)[:, None]
    b = a + scale * gaps * torch.randn(60, width, generator=generator)
    true = torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")
    found = block_distances("euclidean", a, b)
    error = relative_error("euclidean", torch.float32)
    assert ((found - true).abs() <= error / 2 * true).all()
    within = block_distances("euclidean", a, a)
    assert torch.equal(within.diagonal(), torch.zeros(60).double())
    exact = torch.cdist(a.double(), a.double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.allclose(within, exact, rtol=error)


@pytest.mark.parametrize("name", [*NAMED, torch.cdist])
def test_pairs_one_by_one_agree_with_the_tile(name):
    generator = torch.Generator().manual_seed(7)
    a, b = torch.randn(2, 50, 6, generator=generator, dtype=torch.float64)
    tile = block_distances(name, a, b).diagonal()
    assert torch.allclose(paired_distances(name, a, b), tile, rtol=1e-6)
    assert paired_distances(name, a[:0], b[:0]).shape == (0,)


def test_every_pair_is_within_its_error_at_any_distance():
    """Gaps from far below to far above the switch between the two ways to compute."""
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(200, 64, generator=generator, dtype=torch.float64)
    gaps = torch.logspace(-9, 1, 200, dtype=torch.float64)[:, None]
    b = a + gaps * torch.randn(200, 64, generator=generator, dtype=torch.float64)
    true = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    found = block_distances("euclidean", a, b)
    assert ((found - true).abs() <= 1e-6 * true).all()


def test_an_outlier_does_not_cost_the_others_their_accuracy():
    generator = torch.Generator().manual_seed(4)
    a = torch.randn(50, 16, generator=generator, dtype=torch.float64)
    b = a + 1e-7 * torch.randn(50, 16, generator=generator, dtype=torch.float64)
    b[0] = 1e6
    true = torch.linalg.vector_norm(a - b, dim=1)
    found = block_distances("euclidean", a, b).diagonal()
    assert ((found - true).abs() <= 1e-6 * true).all()


def test_a_common_offset_does_not_make_far_pairs_costly(monkeypatch):
    """Centring removes the offset, so the matrix product serves and no pair looks near."""
    a = torch.randn(20, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    expected = torch.cdist(a, -a)
    monkeypatch.delattr(torch, "cdist")
    assert torch.allclose(block_distances("euclidean", a + 1e6, 1e6 - a), expected, rtol=1e-6)


@pytest.mark.parametrize("angle", [1e-9, 1e-5, 0.5, math.pi - 1e-3, math.pi])
def test_angles_small_and_large(angle):
    u, v = torch.tensor([[2.0, 0.0]]), torch.tensor([[math.cos(angle), math.sin(angle)]]).double()
    assert block_distances("angular", u, 5 * v).item() == pytest.approx(angle / math.pi, rel=1e-7)


def test_parallel_rows_collide_in_angle():
    rows = torch.rand(20, 50, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert (block_distances("angular", rows, rows * 0.3).diagonal() == 0).all()


def test_a_row_of_zeros_has_no_angle():
    with pytest.raises(InvalidInput, match="2 rows of zeros"):
        block_distances("angular", torch.tensor([[0.0, 0], [1, 1], [0, 0]]), torch.ones(1, 2))


def test_unknown_names_list_what_exists_and_the_nearest():
    with pytest.raises(InvalidInput, match=r"manhattan.*did you mean 'euclidean'"):
        block_distances("euclidian", torch.ones(1, 1), torch.ones(1, 1))
    with pytest.raises(InvalidInput, match=r"one of a, b$"):
        look_up("thing", "nothing alike", {"a": 1, "b": 2})


def test_a_callable_gets_float64_blocks():
    def halved(a, b):
        assert a.dtype == b.dtype == torch.float64
        return torch.cdist(a, b) / 2

    assert block_distances(halved, torch.zeros(1, 1), torch.full((1, 1), 6.0)).item() == 3


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda a, b: torch.zeros(len(a)), "shape"),
        (lambda a, b: 0.0, "returning float"),
        (lambda a, b: torch.full((len(a), len(b)), -1.0), "at least 0"),
        (lambda a, b: torch.full((len(a), len(b)), math.nan), "finite"),
    ],
)
def test_a_callable_that_is_no_distance_is_refused(function, message):
    with pytest.raises(InvalidInput, match=message):
        block_distances(function, torch.zeros(2, 1), torch.zeros(3, 1))


def test_distances_that_overflow_are_refused():
    rows = torch.tensor([[0.0], [1e200]], dtype=torch.float64)
    with pytest.raises(InvalidInput, match="finite distances"):
        block_distances("euclidean", rows, rows)
