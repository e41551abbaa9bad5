"""The convolution bound against the dense operator, for every geometry."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from holdfast.norms import conv as of_conv
from holdfast.norms.conv import conv_transpose_upper, conv_upper
from holdfast.ops.geometry import ConvGeometry, conv, conv_transpose


def dense(function, channels: int, size: list[int]) -> torch.Tensor:
    """Write an operator out as a matrix, column by column: the slow reference."""
    count = channels * math.prod(size)
    basis = torch.eye(count, dtype=torch.float64).reshape(count, channels, *size)
    return function(basis).flatten(1).T


@st.composite
def convolutions(draw, modes=("constant", "circular", "reflect", "replicate")):
    rank = draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 1, 2]))
    channels = groups * draw(st.integers(1, 2))
    out = groups * draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    geometry = ConvGeometry(
        tuple(draw(st.integers(1, 3)) for _ in range(rank)),
        tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(rank)),
        tuple(draw(st.integers(1, 2)) for _ in range(rank)),
        groups,
        draw(st.sampled_from(modes)),
    )
    size = [draw(st.integers(4, 7)) for _ in range(rank)]
    fits = zip(size, geometry.pads, kernel, geometry.dilation, strict=True)
    assume(all(n + sum(pads) > (k - 1) * d for n, pads, k, d in fits))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(out, channels // groups, *kernel, dtype=torch.float64)
    return weight, geometry, size, channels


@given(convolutions())
def test_never_below_the_dense_operator(case) -> None:
    weight, geometry, size, channels = case
    matrix = dense(lambda x: conv(x, weight, None, geometry), channels, size)
    assert conv_upper(weight, geometry, size) >= float(torch.linalg.matrix_norm(matrix, 2))


@pytest.mark.parametrize("seed", range(3))
def test_wherever_frequencies_are_cut_the_bound_is_the_same(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(40, 36, 3, 3, dtype=torch.float64)
    geometry = ConvGeometry((2, 1), ((1, 1), (1, 1)), (1, 1))
    matrix = dense(lambda x: conv(x, weight, None, geometry), 36, [6, 5])
    true = float(torch.linalg.matrix_norm(matrix, 2))
    whole = conv_upper(weight, geometry, [6, 5])
    monkeypatch.setattr(of_conv, "_at_once", lambda kernel, axes: 2)
    cut = conv_upper(weight, geometry, [6, 5])
    assert true <= min(whole, cut)
    assert max(whole, cut) <= min(whole, cut) * (1.0 + 1e-8)


@given(convolutions(modes=("constant",)))
def test_transposed_never_below_the_dense_operator(case) -> None:
    weight, geometry, size, _ = case
    pads = tuple((low, low) for low, _ in geometry.pads)
    geometry = ConvGeometry(geometry.stride, pads, geometry.dilation, geometry.groups)
    channels = weight.shape[0]
    grown = zip(size, geometry.stride, pads, weight.shape[2:], geometry.dilation, strict=True)
    assume(all((n - 1) * s - 2 * low + (k - 1) * d >= 0 for n, s, (low, _), k, d in grown))
    matrix = dense(lambda x: conv_transpose(x, weight, None, geometry), channels, size)
    x = torch.zeros(1, channels, *size, dtype=torch.float64)
    spatial = list(conv_transpose(x, weight, None, geometry).shape[2:])
    bound = conv_transpose_upper(weight, geometry, spatial)
    assert bound >= float(torch.linalg.matrix_norm(matrix, 2))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_zero_padding_costs_less_than_a_hundredth(stride: int, channels: int, seed: int) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(channels, channels, 3, 3, dtype=torch.float64)
    geometry = ConvGeometry((stride, stride), ((1, 1), (1, 1)), (1, 1))
    matrix = dense(lambda x: conv(x, weight, None, geometry), channels, [16, 16])
    true = float(torch.linalg.eigvalsh(matrix @ matrix.T)[-1]) ** 0.5
    assert conv_upper(weight, geometry, [16, 16]) <= 1.01 * true


def test_on_one_axis_the_bound_of_two_neighbours_is_exact() -> None:
    weight = torch.tensor([[[1.0, 2.0, 1.0]]], dtype=torch.float64)
    geometry = ConvGeometry((1,), ((1, 1),), (1,))
    true = 2.0 + 2.0 * math.cos(math.pi / 13)
    assert true <= conv_upper(weight, geometry, [12]) <= true * (1 + 1e-12)


def test_circular_padding_is_exact() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    geometry = ConvGeometry((1, 1), ((2, 2), (2, 2)), (1, 1), mode="circular")
    matrix = dense(lambda x: conv(x, weight, None, geometry), 2, [8, 8])
    true = float(torch.linalg.matrix_norm(matrix, 2))
    assert true <= conv_upper(weight, geometry, [8, 8]) <= true * (1 + 1e-10)


def test_reshaped_kernel_is_no_bound() -> None:
    """Trap T6: the norm of the reshaped kernel is below the operator's."""
    torch.manual_seed(0)
    weight = torch.randn(8, 1, 3, 3, dtype=torch.float64)
    geometry = ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1))
    matrix = dense(lambda x: conv(x, weight, None, geometry), 1, [8, 8])
    true = float(torch.linalg.matrix_norm(matrix, 2))
    assert float(torch.linalg.matrix_norm(weight.flatten(1), 2)) < 0.9 * true
    assert conv_upper(weight, geometry, [8, 8]) >= true


@pytest.mark.parametrize("exponent", [-1000, -500, 500, 900])
def test_powers_of_two_pass_through(exponent: int) -> None:
    torch.manual_seed(0)
    kernel = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    geometry = ConvGeometry((1, 2), ((1, 1), (0, 1)), (1, 1))
    bound = math.ldexp(conv_upper(kernel, geometry, [6, 6]), exponent)
    assert conv_upper(kernel * 2.0**exponent, geometry, [6, 6]) == bound
