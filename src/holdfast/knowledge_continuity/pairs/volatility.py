"""The k-volatility of one hidden layer: loss change per unit of movement between two random points.

Source: Sun, Ma, Ge, Vosoughi, "Achieving Domain-Independent Certified Robustness via Knowledge
Continuity", NeurIPS 2024, Definition 2.

With rows z_1..z_n, losses L_i and the distance d_ij between their states at one layer, the
volatility of row i is sigma_i = 1/(n-1) sum over j != i of |L_i - L_j| / d_ij, and the volatility
of the layer is the mean of sigma_i. Pairs at distance 0 count as 0 and are reported as collisions.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.pairs.intervals import (
    LEVEL,
    mean,
    pair_mean,
    with_interval,
    without_each,
)
from holdfast.knowledge_continuity.pairs.kernels import Kernel
from holdfast.knowledge_continuity.pairs.pairs import PairSums, Question
from holdfast.types import Estimate


@dataclass(frozen=True, eq=False)
class Volatility:
    """What one layer's pairs say; means are over all ordered pairs i != j.

    The intervals are closed-form leave-one-out jackknife intervals at 95 %. They are asymptotic:
    they hold for many rows and a kernel of finite variance. The raw kernel 1 / distance may have
    infinite variance (for states of two effective dimensions and losses that do not follow them)
    or even an infinite mean (one dimension); then only a clip gives an interval that means
    something. Where leaving one row out leaves no pair, the interval is [0, inf).

    Attributes:
        volatility: E[change / distance], in loss per unit of distance.
        clipped: The same with distances below `floor` taken as `floor`: its interval always means
            something.
        normalised: `volatility` with distances (and clip) divided by the mean distance over pairs,
            in units of loss. Rescaling the layer does not change it (with a clip: rescaled too).
        near: Volatility over pairs at most `near_radius` apart, in loss per unit of distance; None
            where there are none. It says how smooth the layer is, where random pairs say mostly how
            large its states are.
        near_rounding: What rounding may add to the loss change of a near pair, on average.
        pointwise: Volatility of each row, [n] float64.
        one_sided: The part of `pointwise` that comes from partners with a larger loss, [n].
        same_label: Volatility over pairs with equal labels; None if there is no such pair.
        other_label: Volatility over pairs with different labels; None if there is no such pair.
        collisions: Share of pairs at distance 0.
        scale: Mean distance.
        near_radius: In the units of the distance.
        floor: In the units of the distance.
        steepest: The same-label pair with the largest change / distance, and that quotient; None
            where there is none, or only some pairs were taken.
    """

    volatility: Estimate
    clipped: Estimate
    normalised: Estimate
    near: Estimate | None
    near_rounding: float
    pointwise: Tensor
    one_sided: Tensor
    same_label: Estimate | None
    other_label: Estimate | None
    collisions: float
    scale: float
    near_radius: float
    floor: float
    steepest: tuple[float, int, int] | None


def layer_volatility(
    sums: PairSums,
    question: Question,
    sums_of: Callable[[Question], PairSums],
    roundings: Tensor,
) -> Volatility:
    """Turn the sums over a layer's pairs into volatilities.

    Args:
        sums: The sums for the question.
        question: What they answer; its kernel is a `Kernel`.
        sums_of: Answers another question about the same pairs.
        roundings: What rounding may change in the loss of each row, [n].

    Returns:
        The layer's volatility and its parts.

    Raises:
        InvalidInput: If change / distance overflows.
    """
    kernel = question.kernel
    if not bool((sums.total.sum() * sums.distance.sum()).isfinite()):
        raise InvalidInput("clip", "changes / distances that overflow", "a larger clip")
    offset = isinstance(kernel, Kernel) and kernel.offset
    return Volatility(
        volatility=_required(sums.total, sums.pairs),
        clipped=_required(sums.total + sums.lifted, sums.pairs),
        normalised=_normalised_offset(sums, question, sums_of) if offset else _normalised(sums),
        near=pair_mean(sums.near, sums.near_pairs),
        near_rounding=2
        * float((sums.near_pairs * roundings).sum() / sums.near_pairs.sum().clamp(min=1)),
        pointwise=(sums.total / sums.pairs).nan_to_num().cpu(),
        one_sided=(sums.rise / sums.pairs).nan_to_num().cpu(),
        same_label=pair_mean(sums.same, sums.same_pairs),
        other_label=pair_mean(sums.other, sums.other_pairs),
        collisions=mean(sums.collisions, sums.pairs),
        scale=mean(sums.distance, sums.pairs),
        near_radius=question.near,
        floor=question.floor,
        steepest=sums.steepest,
    )


def _required(sums: Tensor, pairs: Tensor) -> Estimate:
    return with_interval(mean(sums, pairs), without_each(sums, pairs))


def _normalised(sums: PairSums) -> Estimate:
    """Return mean kernel x mean distance: the kernel 1 / d with d in units of its mean."""
    without = without_each(sums.total, sums.pairs) * without_each(sums.distance, sums.pairs)
    value = mean(sums.total, sums.pairs) * mean(sums.distance, sums.pairs)
    return with_interval(value, without)


def _normalised_offset(
    sums: PairSums, question: Question, sums_of: Callable[[Question], PairSums]
) -> Estimate:
    """Return E[change / (offset + d / m)], m the mean distance, from passes with offset m.

    Leaving a row out changes both the pairs and m; the second effect is taken to first order.
    """
    kernel, typical = question.kernel, mean(sums.distance, sums.pairs)
    if typical == 0 or not isinstance(kernel, Kernel):
        return Estimate(0.0, 0.0, 0.0, LEVEL)
    scaled = dataclasses.replace(kernel, offset=kernel.offset * typical)
    total = sums_of(Question(question.distance, scaled)).total
    slopes = sums_of(Question(question.distance, scaled.offset_slope)).total
    pairs = sums.pairs
    shift = without_each(sums.distance, pairs) - typical
    return with_interval(
        typical * mean(total, pairs),
        typical * without_each(total, pairs) + mean(slopes, pairs) * shift,
    )
