"""Convolutions on a lattice: one matrix for every frequency, whatever their strides.

A zero-padded convolution is one on a circular lattice on which nothing wraps round, between a map
that surrounds an image with zeros and one that cuts it out (`holdfast.norms.conv`). A value that
has f times as many pixels along an axis as the lattice has places is f values, one for each
remainder of the pixel by f.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.ops.geometry import ConvGeometry
from holdfast.rounding import UNIT, gamma

Factor = tuple[int, ...]
"""Pixels of a value for each place of the lattice, by axis."""


@dataclass(frozen=True)
class Axis:
    """What a convolution reads along one axis of the lattice.

    Attributes:
        reads: Pixel that output pixel 0 reads, for every tap; output pixel i reads it plus
            i * stride.
        stride: Of the convolution.
        before: Pixels of the input for each place of the lattice.
        after: Pixels of the output for each place.
    """

    reads: tuple[int, ...]
    stride: int
    before: int
    after: int

    def places(self, phase: int) -> list[tuple[int, int]]:
        """Return, for every tap, the remainder and the shift of what outputs of a phase read."""
        read = [self.stride * phase + first for first in self.reads]
        return [(pixel % self.before, pixel // self.before) for pixel in read]

    def room(self, pixels: int, outputs: int) -> int:
        """Return how many places the lattice needs, so that wrapped reads find zeros.

        Args:
            pixels: Of the input.
            outputs: Pixels of the output.
        """
        last = self.stride * (outputs - 1) + max(self.reads)
        needed = max(pixels + max(-min(self.reads), 0), last + 1, pixels)
        return max(-(-needed // self.before), -(-outputs // self.after))


def conv_axes(weight: Tensor, geometry: ConvGeometry, after: Factor) -> list[Axis]:
    """Return what a convolution reads along each axis.

    Args:
        weight: [out, in / groups, *taps].
        geometry: With zeros as padding.
        after: Pixels of its output for each place of the lattice.
    """
    return [
        Axis(
            tuple(tap * geometry.dilation[axis] - geometry.pads[axis][0] for tap in range(taps)),
            geometry.stride[axis],
            after[axis] * geometry.stride[axis],
            after[axis],
        )
        for axis, taps in enumerate(weight.shape[2:])
    ]


def half_of_frequencies(places: Sequence[int]) -> Tensor:
    """Return the frequencies of a lattice but those whose negatives are there, [F, axes].

    The symbol at -w is the conjugate of that at w.
    """
    if not places:
        return torch.zeros(1, 0, dtype=torch.long)
    ranges = [torch.arange(count) for count in (*places[:-1], places[-1] // 2 + 1)]
    return torch.cartesian_prod(*ranges).reshape(-1, len(places))


def symbol(
    weight: Tensor, groups: int, axes: Sequence[Axis], frequencies: Tensor, places: Sequence[int]
) -> tuple[Tensor, Tensor, float]:
    """Return the matrices of a convolution at frequencies.

    Args:
        weight: Kernel [out, in / groups, *taps], float64.
        groups: Of channels.
        axes: From `conv_axes`.
        frequencies: [F, axes], whole numbers.
        places: Of the lattice, by axis.

    Returns:
        [F, out * phases, in * phases], complex128; the sums of absolute coefficients,
        [out * phases, in * phases]; and the relative error e: every entry is within e times its
        sum of the exact one.
    """
    kernel = _ungrouped(weight, groups)
    out, channels = kernel.shape[:2]
    flat, taps = kernel.flatten(2), list(itertools.product(*[range(k) for k in weight.shape[2:]]))
    outputs = list(itertools.product(*[range(axis.after) for axis in axes]))
    inputs = {p: k for k, p in enumerate(itertools.product(*[range(a.before) for a in axes]))}
    values = torch.zeros(
        len(frequencies), out, len(outputs), channels, len(inputs), dtype=torch.complex128
    )
    sizes = torch.zeros(out, len(outputs), channels, len(inputs), dtype=torch.float64)
    for row, phase in enumerate(outputs):
        read = [axis.places(p) for axis, p in zip(axes, phase, strict=True)]
        for number, tap in enumerate(taps):
            at = [read[axis][k] for axis, k in enumerate(tap)]
            column = inputs[tuple(remainder for remainder, _ in at)]
            wave = _wave([shift for _, shift in at], frequencies, places)
            values[:, :, row, :, column] += wave[:, None, None] * flat[None, :, :, number]
            sizes[:, row, :, column] += flat[:, :, number].abs()
    # An angle below 2 pi carries at most 8 pi units of error for each axis, its cosine and sine 4
    # more; a product and the sum over taps follow.
    error = len(axes) * 36.0 * UNIT + gamma(4 * (len(taps) + 8))
    sizes = sizes * (1.0 + gamma(len(taps) + 2))
    return values.flatten(3).flatten(1, 2), sizes.flatten(2).flatten(0, 1), 2.0 * error


def _wave(shifts: Sequence[int], frequencies: Tensor, places: Sequence[int]) -> Tensor:
    """Return exp(2 pi i <w, shift>) for every frequency; turns are reduced exactly."""
    angle = torch.zeros(len(frequencies), dtype=torch.float64)
    for axis, (shift, count) in enumerate(zip(shifts, places, strict=True)):
        turns = (frequencies[:, axis] * shift) % count
        angle = angle + turns.double() * (2.0 * math.pi / count)
    return torch.polar(torch.ones_like(angle), angle)


def _ungrouped(weight: Tensor, groups: int) -> Tensor:
    """Return the kernel with zeros between groups of channels."""
    if groups == 1:
        return weight
    parts = weight.chunk(groups)
    kernel = weight.new_zeros(len(weight), groups * weight.shape[1], *weight.shape[2:])
    for k, part in enumerate(parts):
        rows, columns = len(part), part.shape[1]
        kernel[k * rows : (k + 1) * rows, k * columns : (k + 1) * columns] = part
    return kernel
