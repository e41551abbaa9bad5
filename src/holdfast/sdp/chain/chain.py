"""Chains of blocks x -> A x + B phi(C x): what the recursion bounds.

Every feed-forward or residual network of linear maps and slope-restricted activations is such a
chain, followed by a last linear map. Biases play no part in a Lipschitz constant.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from holdfast.errors import InvalidInput

Skip = Tensor | Literal["identity"] | None
Slope = float | Tensor


@dataclass(frozen=True)
class Block:
    """One map x -> A x + B phi(C x), with low <= phi's slopes <= high, neuron by neuron.

    A block without neurons (`inner` of shape [0, d]) is a linear map.

    Attributes:
        inner: C, shape [n, d].
        low: Smallest slope of every neuron, shape [n].
        high: Largest slope of every neuron, shape [n].
        outer: B, shape [m, n]; None is the identity, and then m = n.
        skip: A, shape [m, d]; None is zero, "identity" needs m = d.
    """

    inner: Tensor
    low: Tensor
    high: Tensor
    outer: Tensor | None = None
    skip: Skip = None

    def __post_init__(self) -> None:
        n, d = self.inner.shape
        m = n if self.outer is None else self.outer.shape[0]
        if self.outer is not None and self.outer.shape[1] != n:
            raise InvalidInput("outer", f"{self.outer.shape[1]} columns", f"{n}, the rows of inner")
        if isinstance(self.skip, Tensor) and tuple(self.skip.shape) != (m, d):
            raise InvalidInput("skip", f"shape {tuple(self.skip.shape)}", f"shape {(m, d)}")
        if isinstance(self.skip, str) and (self.skip != "identity" or m != d):
            raise InvalidInput("skip", repr(self.skip), f"a map from {d} numbers to {m}")
        if tuple(self.low.shape) != (n,) or tuple(self.high.shape) != (n,):
            raise InvalidInput("slopes", f"shapes {self.low.shape}, {self.high.shape}", f"[{n}]")
        if not bool((self.low <= self.high).all()):
            raise InvalidInput("high", "slopes below low", "low <= high for every neuron")
        for tensor in (self.inner, self.low, self.high, self.outer, self.skip):
            if isinstance(tensor, Tensor):
                _check(tensor)

    @property
    def neurons(self) -> int:
        """Number of neurons n."""
        return self.inner.shape[0]

    @property
    def outputs(self) -> int:
        """Dimension m of the block's output."""
        return self.neurons if self.outer is None else self.outer.shape[0]

    @property
    def free(self) -> Tensor:
        """Which neurons matter and are not linear: the only ones that need a multiplier."""
        alive = (self.inner != 0).any(1) & (self.low < self.high)
        return alive if self.outer is None else alive & (self.outer != 0).any(0)

    def outer_matrix(self) -> Tensor:
        """Return B as a matrix."""
        if self.outer is not None:
            return self.outer
        return torch.eye(self.neurons, dtype=self.inner.dtype, device=self.inner.device)

    def skip_matrix(self) -> Tensor | None:
        """Return A as a matrix, or None where it is zero."""
        if isinstance(self.skip, str):
            return torch.eye(self.outputs, dtype=self.inner.dtype, device=self.inner.device)
        return self.skip


@dataclass(frozen=True)
class Chain:
    """Blocks one after the other, then y = W x.

    Attributes:
        blocks: From the input to the output.
        last: W, shape [k, outputs of the last block].
    """

    blocks: tuple[Block, ...]
    last: Tensor

    def __post_init__(self) -> None:
        if not self.blocks:
            raise InvalidInput("blocks", "none", "at least one block")
        _check(self.last)
        following = [block.inner for block in self.blocks[1:]] + [self.last]
        for position, (block, then) in enumerate(zip(self.blocks, following, strict=True)):
            if block.outputs != then.shape[1]:
                raise InvalidInput(
                    f"block {position}", f"{block.outputs} outputs", f"{then.shape[1]}, as follows"
                )


def _check(tensor: Tensor) -> None:
    """Raise unless a tensor is finite and float64.

    Raises:
        InvalidInput: Where it is not.
    """
    if tensor.dtype != torch.float64:
        raise InvalidInput("weight", str(tensor.dtype), "float64")
    if not bool(torch.isfinite(tensor).all()):
        raise InvalidInput("weight", "values that are not finite", "finite values")


def activation(
    inner: Tensor,
    low: Slope = 0.0,
    high: Slope = 1.0,
    *,
    outer: Tensor | None = None,
    skip: Skip = None,
) -> Block:
    """Return the block x -> A x + B phi(C x); a slope that is one number holds for all neurons."""
    n = inner.shape[0]
    slopes = [torch.as_tensor(s, dtype=inner.dtype, device=inner.device) for s in (low, high)]
    return Block(inner, slopes[0].expand(n).clone(), slopes[1].expand(n).clone(), outer, skip)


def linear(weight: Tensor) -> Block:
    """Return the block x -> A x without neurons."""
    m, d = weight.shape
    return activation(weight.new_zeros(0, d), outer=weight.new_zeros(m, 0), skip=weight)


def feed_forward(weights: Sequence[Tensor], low: Slope = 0.0, high: Slope = 1.0) -> Chain:
    """Return W_l phi(... phi(W_1 x)) with the same slopes everywhere.

    >>> chain = feed_forward([torch.ones(3, 2).double(), torch.ones(1, 3).double()])
    >>> chain.blocks[0].neurons
    3
    """
    return Chain(tuple(activation(weight, low, high) for weight in weights[:-1]), weights[-1])


def condense(chain: Chain) -> Chain:
    """Return a chain with the same constant, without idle neurons and idle input directions.

    Neurons with one slope join the skip, and the input is replaced by its components in the row
    space of the first C and A (thin QR). Exact in real arithmetic, rounded here: for the search
    of multipliers, not for proofs.
    """
    blocks = tuple(_without_idle(block) for block in chain.blocks)
    return Chain((_thin(blocks[0]), *blocks[1:]), chain.last)


def _without_idle(block: Block) -> Block:
    free, skip = block.free, block.skip_matrix()
    if bool(free.all()):
        return replace(block, skip=skip)
    outer = block.outer_matrix()
    fixed = ~free & (block.low == block.high)
    through = outer[:, fixed] @ (block.low[fixed, None] * block.inner[fixed])
    skip = through if skip is None else skip + through
    return Block(block.inner[free], block.low[free], block.high[free], outer[:, free], skip)


def _thin(block: Block) -> Block:
    skip = block.skip_matrix()
    rows = block.inner if skip is None else torch.cat((skip, block.inner))
    if rows.shape[0] >= rows.shape[1]:
        return block
    triangle = torch.linalg.qr(rows.mT, mode="reduced").R.mT.contiguous()
    m = 0 if skip is None else block.outputs
    return replace(block, inner=triangle[m:], skip=None if skip is None else triangle[:m])
