"""Multipliers and weights of all blocks together: what makes the product of their gains small.

The product is looked at at a few frequencies of each block. The logarithm of each gain, the largest
eigenvalue of matrices Q, is replaced by the smooth number log(sum tr Q^p) / p, which is above it
and comes down to it as p grows, and the sum over all blocks is lowered by L-BFGS in the logarithms
of multipliers and weights. Nothing found here is trusted (`proof`).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.sdp.blocks.lift import BlockForm
from holdfast.sdp.blocks.proof import Block
from holdfast.sdp.chain.search import Memory


def first_multipliers(form: BlockForm, before: Tensor, after: Tensor) -> Tensor:
    """Return feasible multipliers, one number for each run of units that do not feed themselves.

    From the output back every run gets the largest eigenvalue of what the later ones ask of it,
    over all frequencies, as in `holdfast.sdp.dense.interior.sweep`.
    """
    d, lam = form.inputs, torch.ones(form.units, dtype=torch.float64)
    block = Block(form, before, after, torch.zeros(form.units, dtype=torch.float64))
    rest = torch.cat([block.matrices(part) for part in block.chunks()])
    if not form.units:
        return lam
    for first, last in reversed(_runs(form)):
        own = slice(d + first, d + last)
        asked = torch.linalg.eigvalsh(-rest[:, own, own])[:, -1].max()
        value = 1.1 * max(float(asked), 1e-12 * float(rest.abs().max()) + 1e-30)
        lam[first:last] = value
        steep = value * (form.low + form.high)[first:last, None]
        rows = steep * form.B[:, first:last, : d + first]
        rest[:, own, : d + first] -= rows
        bend = 2.0 * value * (form.low * form.high)[first:last, None]
        inner = form.B[:, first:last, : d + first]
        rest[:, : d + first, : d + first] += inner.mH @ (bend * inner)
        lower = rest[:, own, own]
        lower.diagonal(dim1=-2, dim2=-1).add_(2.0 * value)
        factor = torch.linalg.cholesky_ex(lower)[0]
        half = torch.linalg.solve_triangular(factor, rest[:, own, : d + first], upper=False)
        rest = rest[:, : d + first, : d + first] - half.mH @ half
    return lam


def _runs(form: BlockForm) -> list[tuple[int, int]]:
    """Return the runs of units that do not feed themselves, in order."""
    filled = form.B_size[:, form.inputs :] != 0
    runs, first = [], 0
    for unit in range(form.units):
        if bool(filled[unit, first:unit].any()):
            runs.append((first, unit))
            first = unit
    return [*runs, (first, form.units)] if form.units else []


def smooth_gain(
    form: BlockForm, before: Tensor, after: Tensor, lam: Tensor, doublings: int
) -> tuple[Tensor, float]:
    """Return a number with the gradient of the smooth logarithm of g, and that logarithm.

    Args:
        form: The block at some frequencies.
        before: s by channel.
        after: t by channel.
        lam: [units].
        doublings: The power p is two to this.

    Returns:
        Infinite where the multipliers bound nothing.
    """
    needed, inside = _needed(form, before[form.before], after[form.after], lam)
    if needed is None or not bool(needed.isfinite().all()):
        return lam.sum(), math.inf
    # A faint barrier, without which steps end at the border of what bounds anything.
    inside = -4.0 * 0.5**doublings * inside
    with torch.no_grad():
        scale = float(torch.linalg.vector_norm(needed, dim=(1, 2)).max())
        square = power = needed.mH / scale
        for _ in range(doublings - 1):
            square = square @ square
            power = power @ square
        total = float((power * needed.mT).sum().real) / scale
        if not total > 0.0:
            return lam.sum(), math.inf
        value = math.log(scale) + math.log(total) / 2**doublings + float(inside)
        weight = power.mT / (total * scale)
    return (weight * needed).sum().real + inside, value


def _needed(form: BlockForm, s: Tensor, t: Tensor, lam: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return matrices Q, or others with the same eigenvalues but 0; None where there are none.

    The second result says how far the multipliers are from bounding nothing: the mean, over units
    and frequencies, of the logarithm of what is left of their 2 lam.
    """
    inside = torch.zeros((), dtype=torch.float64)
    d = form.inputs
    C, steep = t[:, None] * form.C, (lam * (form.low + form.high))[:, None] * form.B
    straight = not bool((form.low * form.high != 0).any())
    q = -(C.mH @ C)
    if not straight:
        q = q + form.B.mH @ ((2.0 * lam * form.low * form.high)[:, None] * form.B)
    q = q - torch.nn.functional.pad(steep, (0, 0, d, 0))
    q = q - torch.nn.functional.pad(steep, (0, 0, d, 0)).mH
    q = q + torch.diag(torch.nn.functional.pad(2.0 * lam, (d, 0))).to(q.dtype)
    rows = [C[:, :, :d]]
    if form.units:
        lower, failed = torch.linalg.cholesky_ex(q[:, d:, d:])
        if bool(failed.any()):
            return None, inside
        left = lower.diagonal(dim1=-2, dim2=-1).real
        inside = (2.0 * left.log() - (2.0 * lam).log()).mean()
        rows.append(torch.linalg.solve_triangular(lower, q[:, d:, :d], upper=False))
    stacked = torch.cat(rows, 1) / s
    if straight and stacked.shape[1] < d:
        return stacked @ stacked.mH, inside
    if straight:
        return stacked.mH @ stacked, inside
    half = stacked[:, len(form.C_size) :]
    return half.mH @ half - q[:, :d, :d] / s[:, None] / s, inside


@dataclass
class Found:
    """What a search has found.

    Attributes:
        weights: By passage, logarithms, [channels].
        multipliers: By block, logarithms, [units].
        held: By passage, whether its weights stay as they are.
    """

    weights: list[Tensor]
    multipliers: list[Tensor]
    held: list[bool]

    def free(self) -> Tensor:
        """Return what may change as one vector."""
        return torch.cat(self._parts())

    def _parts(self) -> list[Tensor]:
        moving = [w for w, held in zip(self.weights, self.held, strict=True) if not held]
        return [*moving, *self.multipliers]

    def at(self, vector: Tensor) -> "Found":
        """Return the same with other numbers."""
        pieces = iter(vector.split([len(part) for part in self._parts()]))
        weights = [
            w if held else next(pieces) for w, held in zip(self.weights, self.held, strict=True)
        ]
        return Found(weights, list(pieces), self.held)

    def towards(self, other: "Found", share: float) -> "Found":
        """Return what lies between: what is proved of both is proved of it, as q is linear."""

        def mixed(first: list[Tensor], second: list[Tensor], power: float) -> list[Tensor]:
            pairs = zip(first, second, strict=True)
            return [
                torch.logaddexp(power * a + math.log(1.0 - share), power * b + math.log(share))
                / power
                for a, b in pairs
            ]

        # q is linear in the squares of weights.
        weights = mixed(self.weights, other.weights, 2.0)
        return Found(weights, mixed(self.multipliers, other.multipliers, 1.0), self.held)


def lower_product(
    forms: Sequence[BlockForm | None],
    found: Found,
    end: float,
    doublings: Sequence[int],
) -> Found:
    """Lower the product of gains until the time is over, or little is gained.

    Args:
        forms: Blocks, at the frequencies to look at; None for one with a fixed gain.
        found: Where to start.
        end: Reading of `time.perf_counter` when to stop.
        doublings: Powers p to go through, as in `smooth_gain`.

    Returns:
        The best found at these frequencies.
    """

    def evaluate(vector: Tensor, power: int) -> tuple[float, Tensor]:
        x = vector.detach().requires_grad_()
        tried = found.at(x)
        total, value = x.sum() * 0.0, 0.0
        for k, form in enumerate(forms):
            if form is None:
                continue
            before, after = tried.weights[k].exp(), tried.weights[k + 1].exp()
            part, smooth = smooth_gain(form, before, after, tried.multipliers[k].exp(), power)
            total, value = total + part, value + smooth
            if math.isinf(value):
                return value, x.detach()
        return value, torch.autograd.grad(total, x)[0]

    x = found.free()
    if not x.numel():  # one channel, and no unit: there is nothing to choose
        return found
    for power in doublings:
        memory = Memory(None, 20)
        value, slope = evaluate(x, power)
        for _ in range(40):
            if time.perf_counter() > end or math.isinf(value):
                return found.at(x)
            way = memory.direction(slope)
            longest = float(way.abs().max())
            if not longest > 0.0:
                break
            size = min(1.0, 0.5 / longest)
            while size > 1e-4:
                after, turned = evaluate(x + size * way, power)
                if after < value + 1e-4 * size * float(slope @ way):
                    break
                size *= 0.4
            else:
                break
            memory.update(size * way, turned - slope)
            gained = value - after
            x, value, slope = x + size * way, after, turned
            if gained < 2e-3:
                break
    return found.at(x)
