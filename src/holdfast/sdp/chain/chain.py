"""Chains of layers x -> phi(C x): what the recursion bounds.

Every feed-forward network of linear maps and slope-restricted activations is such a chain, followed
by a last linear map. Biases play no part in a Lipschitz constant.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from holdfast.sdp.form import NormalForm, levels


@dataclass(frozen=True)
class ChainLayer:
    """One map x -> A x + B phi(C x), with low <= phi's slopes <= high, neuron by neuron.

    A and B occur where `condense` has left neurons out; such a layer may have no neuron at all.

    Attributes:
        inner: C, shape [n, d].
        low: Smallest slope of every neuron, shape [n].
        high: Largest slope of every neuron, shape [n].
        outer: B, shape [m, n]; None is the identity, and then m = n.
        skip: A, shape [m, d]; None is zero.
    """

    inner: Tensor
    low: Tensor
    high: Tensor
    outer: Tensor | None = None
    skip: Tensor | None = None

    @property
    def neurons(self) -> int:
        """Number of neurons n."""
        return self.inner.shape[0]

    @property
    def free(self) -> Tensor:
        """Which neurons matter and are not linear: the only ones that need a multiplier."""
        return (self.inner != 0).any(1) & (self.low < self.high)


@dataclass(frozen=True)
class Chain:
    """Layers one after the other, then y = W x.

    Attributes:
        layers: From the input to the output, at least one.
        last: W, shape [k, outputs of the last layer].
    """

    layers: tuple[ChainLayer, ...]
    last: Tensor

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Cut a vector over all neurons into one piece per layer."""
        return torch.split(values, [layer.neurons for layer in self.layers])


def chain_of(form: NormalForm) -> Chain | None:
    """Return the chain that a normal form is, or None where layers are skipped.

    Args:
        form: Not reduced, so that its entries are the network's own.

    Returns:
        The chain, exact; None for networks with skips, without activations or with rounded rows.
    """
    if form.B_error is not None or form.C_error is not None or not form.units:
        return None
    layers: list[ChainLayer] = []
    before = slice(0, form.inputs)
    for first, last in levels(form.B, form.inputs):
        rows = form.B[first:last]
        inner = rows[:, before]
        if (rows != 0).sum() != (inner != 0).sum():
            return None
        low, high = (torch.tensor(side[first:last]) for side in (form.low, form.high))
        layers.append(ChainLayer(torch.tensor(inner), low, high))
        before = slice(form.inputs + first, form.inputs + last)
    output = form.C[:, before]
    if (form.C != 0).sum() != (output != 0).sum():
        return None
    return Chain(tuple(layers), torch.tensor(output))


def condense(chain: Chain) -> Chain:
    """Return a chain with the same constant, without idle neurons and idle input directions.

    Neurons with one slope join the skip, and the input is replaced by its components in the row
    space of the first C and A (thin QR). Exact in real arithmetic, rounded here: for the search
    of multipliers, not for proofs.
    """
    layers = tuple(_without_idle(layer) for layer in chain.layers)
    return Chain((_thin(layers[0]), *layers[1:]), chain.last)


def _without_idle(layer: ChainLayer) -> ChainLayer:
    free = layer.free
    if bool(free.all()):
        return layer
    outer = torch.eye(layer.neurons, dtype=layer.inner.dtype)
    fixed = ~free & (layer.low == layer.high)
    skip = outer[:, fixed] @ (layer.low[fixed, None] * layer.inner[fixed])
    return ChainLayer(layer.inner[free], layer.low[free], layer.high[free], outer[:, free], skip)


def _thin(layer: ChainLayer) -> ChainLayer:
    skip = layer.skip
    rows = layer.inner if skip is None else torch.cat((skip, layer.inner))
    if rows.shape[0] >= rows.shape[1]:
        return layer
    triangle = torch.linalg.qr(rows.mT, mode="reduced").R.mT.contiguous()
    m = 0 if skip is None else len(skip)
    return replace(layer, inner=triangle[m:], skip=None if skip is None else triangle[:m])
