"""Rows that are zero outside a window: what an entry of a convolution reads of the node before it.

Bounding every entry of a convolution in the way of `holdfast.bounds.linear` takes one row per
entry, and a row of an image net has thousands of coefficients of which few dozen are not zero.
Here only those are held.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.ops.geometry import ConvGeometry


@dataclass(frozen=True)
class Windows:
    """K rows per region, each zero outside one window of a [C, *spatial] node.

    Attributes:
        rows: [R, K, C, *window]; zero where the window reaches beyond the node.
        corner: [R, K, len(spatial)], place of the window's first entry, which may be outside.
        node: Shape of the node, (C, *spatial).
    """

    rows: Tensor
    corner: Tensor
    node: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the rows in full, [R, K, *node]."""
        return (*self.rows.shape[:2], *self.node)

    @classmethod
    def of_entries(cls, places: Tensor, shape: tuple[int, ...]) -> "Windows":
        """Return the rows that read one entry each.

        Args:
            places: [R, K], places in the flattened node.
            shape: Of the node.

        Returns:
            Windows of one entry.
        """
        channel, *corner = torch.unravel_index(places, shape)
        rows = F.one_hot(channel, shape[0]).double().reshape(*channel.shape, -1, *[1] * len(corner))
        return cls(rows, torch.stack(corner, -1), shape)

    def __len__(self) -> int:
        return len(self.rows)

    def flatten(self, start: int) -> Tensor:
        """Return the coefficients that are held, laid along one dimension."""
        return self.rows.flatten(start)

    def abs(self) -> "Windows":
        """Return the rows' absolute values."""
        return self.replaced(self.rows.abs())

    def detach(self) -> "Windows":
        """Return the rows without their gradient."""
        return self.replaced(self.rows.detach())

    @property
    def window(self) -> tuple[int, ...]:
        """Size of the windows."""
        return tuple(self.rows.shape[3:])

    def read(self, values: Tensor) -> Tensor:
        """Return what each window holds of a node's values; 0 outside.

        Args:
            values: [R or 1, C, *spatial].

        Returns:
            [R, K, C, *window].
        """
        low, high = self.corner.flatten(0, 1).aminmax(dim=0)
        axes = list(zip(low.tolist(), high.tolist(), self.window, self.node[1:], strict=True))
        pads = [(max(0, -first), max(0, last + w - size)) for first, last, w, size in axes]
        view = F.pad(values, [amount for pair in reversed(pads) for amount in pair])
        for axis, size in enumerate(self.window):
            view = view.unfold(2 + axis, size, 1)
        region = torch.arange(len(values))[:, None].expand(self.corner.shape[:2])
        places = [self.corner[..., axis] + before for axis, (before, _) in enumerate(pads)]
        return view[region, :, *places]

    def dense(self) -> Tensor:
        """Return the rows in full, [R, K, *shape]."""
        index, inside = self._places()
        full = self.rows.new_zeros(*self.rows.shape[:2], math.prod(self.node))
        kept = torch.where(inside, self.rows, torch.zeros_like(self.rows))
        full.scatter_add_(2, index.expand(self.rows.shape).flatten(2), kept.flatten(2))
        return full.unflatten(2, self.node)

    def _places(self) -> tuple[Tensor, Tensor]:
        """Return the place of every entry in the flattened node, and whether it is inside."""
        rank = len(self.window)
        index = torch.arange(self.node[0]).reshape(-1, *[1] * rank)
        inside = torch.ones((), dtype=torch.bool)
        for axis, (width, size) in enumerate(zip(self.window, self.node[1:], strict=True)):
            place = self.corner[..., axis, None] + torch.arange(width)
            place = place.reshape(*place.shape[:2], 1, *[1] * axis, width, *[1] * (rank - axis - 1))
            index = index * size + place.clamp(0, size - 1)
            inside = inside & (place >= 0) & (place < size)
        return index, inside

    def mirrored(self) -> "Windows":
        """Return the rows and minus the rows."""
        rows, corner = torch.cat([self.rows, -self.rows], 1), torch.cat([self.corner] * 2, 1)
        return Windows(rows, corner, self.node)

    def replaced(self, rows: Tensor) -> "Windows":
        """Return other rows on the same windows."""
        return dataclasses.replace(self, rows=rows)

    def through(self, weight: Tensor, geometry: ConvGeometry, shape: tuple[int, ...]) -> "Windows":
        """Apply the transpose of a convolution that pads with zeros, evenly.

        Args:
            weight: Of the convolution whose result the rows read.
            geometry: Of the convolution.
            shape: Of its input.

        Returns:
            The rows that read its input.
        """
        settings = zip(
            self.window, geometry.stride, geometry.dilation, weight.shape[2:], strict=True
        )
        window = [(w - 1) * stride + dilation * (k - 1) + 1 for w, stride, dilation, k in settings]
        flat = self.rows.flatten(0, 1)
        back = conv_adjoint(flat, weight, unpadded(geometry), (shape[0], *window))
        stride = torch.tensor(geometry.stride)
        corner = self.corner * stride - torch.tensor([before for before, _ in geometry.pads])
        moved = Windows(back.unflatten(0, self.rows.shape[:2]), corner, shape)
        return moved.replaced(moved.rows * moved._places()[1])

    def worth_it(self) -> bool:
        """Return whether the windows are much smaller than the node."""
        return 2 * math.prod(self.window) <= math.prod(self.node[1:])


def unpadded(geometry: ConvGeometry) -> ConvGeometry:
    """Return the geometry without its padding."""
    return dataclasses.replace(geometry, pads=((0, 0),) * len(geometry.pads))


def conv_adjoint(
    rows: Tensor, weight: Tensor, geometry: ConvGeometry, shape: tuple[int, ...]
) -> Tensor:
    """Apply the transpose of an evenly zero-padded convolution: its gradient, run alone.

    Args:
        rows: [N, channels out, *spatial].
        weight: Of the convolution.
        geometry: Of the convolution.
        shape: Of one row of its input.

    Returns:
        [N, *shape].
    """
    like = rows.new_empty(1).expand(len(rows), *shape)
    pads = [low for low, _ in geometry.pads]
    settings = (geometry.stride, pads, geometry.dilation, False, [0] * len(pads), geometry.groups)
    only_input = (True, False, False)
    return torch.ops.aten.convolution_backward(rows, like, weight, None, *settings, only_input)[0]


def is_even(geometry: ConvGeometry) -> bool:
    """Return whether a convolution pads with zeros, as much before as after."""
    return geometry.mode == "constant" and all(low == high for low, high in geometry.pads)


Coefficients = Tensor | Windows
"""[R or 1, K, *shape of a node]."""


def dense(rows: Coefficients) -> Tensor:
    """Return rows written out."""
    return rows.dense() if isinstance(rows, Windows) else rows


def mirrored_rows(rows: Coefficients) -> Coefficients:
    """Return the rows and minus the rows."""
    return rows.mirrored() if isinstance(rows, Windows) else torch.cat([rows, -rows], 1)
