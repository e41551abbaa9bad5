"""Proved upper bounds of the spectral norm of a convolution from its symbol on a grid.

A zero-padded convolution is a circular one on a grid large enough that nothing wraps round,
restricted to some rows and columns; the circular one is block diagonal in Fourier space (Sedghi,
Gupta, Long, "The singular values of convolutional layers", 2019). A stride s is the convolution of
the s^d phases of the input (polyphase), exact; dilation moves taps; groups are separate operators.

Multiplying pixel j by exp(i t j), and output i by exp(-i t i), changes no norm, and moves all
frequencies by t. The peak of the symbol is broad, and a grid on whose nodes it does not lie gives
the smaller bound: on small images several grids are tried, each also moved by half a step.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.norms.matrix import spectral_upper
from holdfast.ops.geometry import ConvGeometry
from holdfast.rounding import (
    TINY,
    UNIT,
    add_up,
    exponent_of,
    frobenius_up,
    gamma,
    ldexp_up,
    mul_up,
    scaled,
    sqrt_up,
    up,
)


def conv_upper(weight: Tensor, geometry: ConvGeometry, size: Sequence[int]) -> float:
    """Return a proved upper bound of the l2 operator norm of a convolution without its bias.

    Args:
        weight: Kernel [out, in / groups, *taps], taken as exact.
        geometry: Stride, padding, dilation, groups.
        size: Spatial size of the input.

    Returns:
        An upper bound; for zero padding at most about a hundredth above the norm from 16x16 images
        on, and tight where the padding is circular and keeps the size.
    """
    geometry, size, copies = _without_copies(geometry, size, weight.shape[2:])
    axes = [_axis(geometry, axis, size[axis], weight.shape[2 + axis]) for axis in range(len(size))]
    exponent = exponent_of(weight)
    kernel = scaled(weight.double(), -exponent)
    groups = kernel.reshape(geometry.groups, -1, *weight.shape[1:])
    if kernel[0, 0].numel() == 1:  # one matrix for all pixels that are read
        norm = max(spectral_upper(group.flatten(1)) for group in groups)
    else:
        # Taps first, [*taps, out, in]: some of them are then one piece of memory.
        kernels = [group.movedim((0, 1), (-2, -1)).contiguous() for group in groups]
        norm = max(_symbol_upper(kernel, _best_grid(kernel, axes)) for kernel in kernels)
    return mul_up(ldexp_up(norm, exponent), sqrt_up(float(copies)))


def conv_transpose_upper(weight: Tensor, geometry: ConvGeometry, size: Sequence[int]) -> float:
    """Return the bound for a transposed convolution: that of its adjoint.

    Args:
        weight: Kernel [in, out / groups, *taps].
        geometry: Stride, padding, dilation, groups of the transposed convolution.
        size: Spatial size of its output, which is the input of the adjoint.
    """
    return conv_upper(weight, geometry, size)


@dataclass(frozen=True)
class _Axis:
    """One spatial axis of the circular convolution on the grid.

    Attributes:
        grid: Number of frequencies.
        phases: Stride: number of polyphase components.
        taps: For each tap its phase and its shift on the coarse grid.
        wraps: Whether the convolution itself is circular on this very grid.
        moved: By how many half steps the frequencies are moved, 0 or 1.
    """

    grid: int
    phases: int
    taps: tuple[tuple[int, int], ...]
    wraps: bool = False
    moved: int = 0

    def variants(self, more: int) -> "list[_Axis]":
        """Return the axis on a larger grid, frequencies moved or not; itself where it wraps."""
        if self.wraps:
            return [self]
        grid = self.grid + more
        return [dataclasses.replace(self, grid=grid, moved=moved) for moved in (0, 1)]

    def frequencies(self, half: bool = False) -> range:
        """Return the frequencies, or the half of which the others are the negatives."""
        return range((self.grid - self.moved) // 2 + 1 if half else self.grid)


def _without_copies(
    geometry: ConvGeometry, size: Sequence[int], taps: Sequence[int]
) -> tuple[ConvGeometry, Sequence[int], int]:
    """Return the convolution without a padding that copies pixels, and how often it copies one.

    What is left pads nothing and reads a larger image.
    A map that copies each pixel at most k times has norm at most sqrt(k). A circular padding that
    wraps each axis at most once is kept: it is circular on the image itself.
    """
    if geometry.mode == "constant" or not any(map(any, geometry.pads)):
        return geometry, size, 1
    if geometry.mode == "circular" and _wraps_evenly(geometry, size, taps):
        return geometry, size, 1
    copies = math.prod(
        _copies(geometry.mode, length, pads)
        for length, pads in zip(size, geometry.pads, strict=True)
    )
    padded = [n + low + high for n, (low, high) in zip(size, geometry.pads, strict=True)]
    bare = tuple((0, 0) for _ in size)
    return ConvGeometry(geometry.stride, bare, geometry.dilation, geometry.groups), padded, copies


def _copies(mode: str, length: int, pads: tuple[int, int]) -> int:
    """Return how often a pixel of an axis occurs after padding, at most."""
    before, after = pads
    if mode == "replicate":
        return 1 + max(before, after) if length > 1 else 1 + before + after
    if mode == "reflect":
        return 1 + (before > 0) + (after > 0)
    return 1 + -(-(before + after) // length)


def _wraps_evenly(geometry: ConvGeometry, size: Sequence[int], taps: Sequence[int]) -> bool:
    """Return whether every output reads the circular image at a place of its own."""
    axes = zip(size, taps, geometry.stride, geometry.dilation, geometry.pads, strict=True)
    return all(
        n % stride == 0 and (n + low + high - (k - 1) * dilation - 1) // stride + 1 <= n // stride
        for n, k, stride, dilation, (low, high) in axes
    )


def _axis(geometry: ConvGeometry, axis: int, length: int, kernel: int) -> _Axis:
    """Lay one axis out on a grid on which nothing wraps round by mistake."""
    stride, dilation = geometry.stride[axis], geometry.dilation[axis]
    before, after = geometry.pads[axis]
    offsets = [tap * dilation - before for tap in range(kernel)]
    taps = tuple((offset % stride, offset // stride) for offset in offsets)
    reach = (kernel - 1) * dilation
    if geometry.mode == "circular" and (before or after):
        return _Axis(length // stride, stride, taps, wraps=True)
    outputs = (length + before + after - reach - 1) // stride + 1
    coarse = -(-length // stride)
    shifts = [shift for _, shift in taps]
    # Output i reads coarse pixel i + shift: equal modulo the grid must mean equal.
    needed = max(outputs - 1 + max(shifts), coarse - 1 - min(shifts)) + 1
    return _Axis(max(needed, outputs, coarse), stride, taps)


def _best_grid(kernel: Tensor, axes: Sequence[_Axis]) -> Sequence[_Axis]:
    """Return the axes with the grid that promises the smallest bound; every grid gives one."""
    count, columns = math.prod(axis.grid for axis in axes), _columns(kernel, axes)
    # Comparing grids pays for up to so many frequencies, and numbers of the symbol.
    heavy = count > 1024 or count * kernel.shape[-2] * columns > 2**20
    if heavy or all(axis.wraps for axis in axes):
        return axes
    grids = [
        grid
        for more in (0, 1)
        for grid in itertools.product(*[axis.variants(more) for axis in axes])
    ]
    return min(grids, key=lambda grid: _symbol_estimate(kernel, grid))


def _columns(kernel: Tensor, axes: Sequence[_Axis]) -> int:
    """Return the number of columns of the symbol."""
    return kernel.shape[-1] * math.prod(axis.phases for axis in axes)


def _symbol_estimate(kernel: Tensor, axes: Sequence[_Axis]) -> float:
    """Return about the largest singular value of the symbol."""
    parts = _frequencies(kernel, axes).split(_at_once(kernel, axes))
    # 30 steps are enough to tell grids apart.
    return max(float(_sizes(_symbol(kernel, axes, part), 30).max()) for part in parts)


def _sizes(symbol: Tensor, steps: int) -> Tensor:
    """Return about the largest singular value at each frequency, by power iteration, [f]."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(symbol.shape[1], 1, generator=generator).to(symbol.dtype)
    vector, length = vector.expand(len(symbol), -1, 1), torch.ones(())
    for _ in range(steps):
        vector = symbol @ (vector.mH @ symbol).mH  # conjugates vectors, never the matrices
        length = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
        vector = vector / length.clamp(min=1e-30)
    return length.flatten().sqrt()


def _frequencies(kernel: Tensor, axes: Sequence[_Axis]) -> Tensor:
    """Return all frequencies but those whose negatives are there, [f, d].

    The symbol at -w is the conjugate of that at w.
    """
    ranges = [*[axis.frequencies() for axis in axes[:-1]], axes[-1].frequencies(half=True)]
    return torch.cartesian_prod(*map(torch.tensor, ranges)).reshape(-1, len(axes))


def _at_once(kernel: Tensor, axes: Sequence[_Axis]) -> int:
    """Return at how many frequencies the symbol is evaluated at once.

    These are 16 MB: what is larger does not fit into caches, and takes twice the time.
    """
    return max(1, 2**20 // (kernel.shape[-2] * _columns(kernel, axes)))


def _symbol_upper(kernel: Tensor, axes: Sequence[_Axis]) -> float:
    """Bound the largest singular value of the symbol [out, in * phases] over all frequencies."""
    frequencies, few = _frequencies(kernel, axes), _at_once(kernel, axes)
    short = torch.complex64
    parts = [_sizes(_symbol(kernel, axes, part).to(short), 8) for part in frequencies.split(few)]
    # Once the largest is bounded, the others need only be told not to be above it.
    order = torch.cat(parts).argsort(descending=True)
    worst = 0.0
    for part in (frequencies[order[:1]], *frequencies[order[1:]].split(few)):
        worst = max(worst, spectral_upper(_symbol(kernel, axes, part), floor=worst))
    return up(worst + _symbol_error(kernel, axes))


def _symbol(kernel: Tensor, axes: Sequence[_Axis], frequencies: Tensor) -> Tensor:
    """Evaluate the symbol at frequencies [f, d]: result [f, out, in * phases], complex128."""
    out, channels = kernel.shape[-2:]
    shape = (len(frequencies), out, _columns(kernel, axes) // channels, channels, 2)
    symbol = torch.zeros(shape, dtype=torch.float64)
    for phase, residue in enumerate(itertools.product(*[range(axis.phases) for axis in axes])):
        chosen = [
            [k for k, (of_tap, _) in enumerate(axis.taps) if of_tap == r]
            for axis, r in zip(axes, residue, strict=True)
        ]
        if not all(chosen):
            continue
        block = kernel
        for dim, taps in enumerate(chosen):
            if len(taps) < block.shape[dim]:
                block = block.index_select(dim, torch.tensor(taps))
        taps = block.reshape(-1, out * channels)
        waves = _waves(axes, chosen, frequencies)
        for part, wave in enumerate((waves.real, waves.imag)):
            symbol[:, :, phase, :, part] = (wave @ taps).reshape(-1, out, channels)
    return torch.view_as_complex(symbol).flatten(2)


def _waves(axes: Sequence[_Axis], chosen: Sequence[list[int]], frequencies: Tensor) -> Tensor:
    """Return exp(2 pi i w a) for every frequency and chosen tap, [f, taps]."""
    waves = torch.ones(len(frequencies), 1, dtype=torch.complex128)
    for dim, (axis, taps) in enumerate(zip(axes, chosen, strict=True)):
        shifts = torch.tensor([axis.taps[tap][1] for tap in taps])
        # Reduced exactly in integers first, so that the angle is below 2 pi.
        turns = ((2 * frequencies[:, dim, None] + axis.moved) * shifts) % (2 * axis.grid)
        angles = turns.double() * (math.pi / axis.grid)
        wave = torch.polar(torch.ones_like(angles), angles)
        waves = (waves[:, :, None] * wave[:, None, :]).flatten(1)
    return waves


def _symbol_error(kernel: Tensor, axes: Sequence[_Axis]) -> float:
    """Return a bound of the 2-norm of the rounding error of the computed symbol.

    An angle below 2 pi carries at most 8 pi units of error and its cosine and sine 4 more; the
    waves of the axes are multiplied (4 roundings each), and the taps are summed. Where the kernel
    underflows, in a product or when it was scaled, an entry loses a few `TINY` for each tap.
    """
    taps = kernel.shape[:-2].numel()
    per_tap = mul_up(len(axes) * 34.0 * UNIT, 1.01) + gamma(4 * (taps + 4))
    total = kernel.abs().flatten(0, -3).sum(0) * (1.0 + 2.0 * gamma(taps + 2))
    # Each tap belongs to one phase, so the blocks' errors add up to one such matrix per phase.
    underflow = 16.0 * kernel.numel() * TINY
    return add_up(mul_up(2.0 * per_tap, frobenius_up(total)), underflow)
