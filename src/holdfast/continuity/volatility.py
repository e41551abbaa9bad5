"""The k-volatility of hidden layers: loss change per unit of movement between two random points.

Source: Sun, Ma, Ge, Vosoughi, "Achieving Domain-Independent Certified Robustness via Knowledge
Continuity", NeurIPS 2024, Definition 2.

With rows z_1..z_n, losses L_i and the distance d_ij between their states at one layer, the
volatility of row i is sigma_i = 1/(n-1) sum over j != i of |L_i - L_j| / d_ij, and the volatility
of the layer is the mean of sigma_i. Pairs at distance 0 count as 0 and are reported as collisions.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from torch import Tensor

from holdfast.continuity.distance import Distance, name_of, resolve_distance
from holdfast.continuity.pairs import Kernel, PairFunction, PairSums, pair_sums, resolve_kernel
from holdfast.documents import StrPath, plain, to_json, write_whole
from holdfast.errors import InvalidInput
from holdfast.names import look_up
from holdfast.types import Estimate

LEVEL = 0.95
QUANTILE = NormalDist().inv_cdf((1 + LEVEL) / 2)


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
        normalised: The same with distances (and clip) divided by the mean distance over pairs, in
            units of loss. Rescaling the layer does not change it (with a clip: rescaled as well).
        pointwise: Volatility of each row, [n] float64.
        one_sided: The part of `pointwise` that comes from partners with a larger loss, [n].
        same_label: Volatility over pairs with equal labels; None if there is no such pair.
        other_label: Volatility over pairs with different labels; None if there is no such pair.
        collisions: Share of pairs at distance 0.
    """

    volatility: Estimate
    normalised: Estimate
    pointwise: Tensor
    one_sided: Tensor
    same_label: Estimate | None
    other_label: Estimate | None
    collisions: float


@dataclass(frozen=True, eq=False)
class Knowledge:
    """The volatility of every measured layer of a model, on one data set.

    Each dictionary is by layer; see `Volatility` for the meaning, units and intervals of entries.

    Attributes:
        layers: Layer names in execution order.
        volatility: Loss change per unit of distance.
        normalised: The same, with distances divided by their mean: comparable between layers.
        pointwise: Volatility of each row, [n] float64.
        one_sided: The part of `pointwise` that comes from partners with a larger loss, [n].
        same_label: Volatility over pairs with equal labels; None if there is no such pair.
        other_label: Volatility over pairs with different labels; None if there is no such pair.
        collisions: Share of pairs at distance 0.
        distance: Name of the distance.
        kernel: `inverse` or `one_plus`.
        clip: Smallest distance, or None.
        n: Number of rows.
        notes: Sentences on what is missing or particular, and why.
        loss: Name of the loss; `given` where the losses came as numbers.
    """

    layers: tuple[str, ...]
    volatility: dict[str, Estimate]
    normalised: dict[str, Estimate]
    pointwise: dict[str, Tensor]
    one_sided: dict[str, Tensor]
    same_label: dict[str, Estimate | None]
    other_label: dict[str, Estimate | None]
    collisions: dict[str, float]
    distance: str
    kernel: str
    clip: float | None
    n: int
    notes: tuple[str, ...] = ()
    loss: str = "given"

    def rank(self) -> list[str]:
        """Return the layers, most volatile first, by `normalised`; ties in execution order."""
        return sorted(self.layers, key=lambda layer: -self.normalised[layer].value)

    def worst(self, layer: str, k: int = 10) -> list[tuple[int, float]]:
        """Return the rows with the largest pointwise volatility at a layer.

        Args:
            layer: A name in `layers`.
            k: How many rows; all of them if there are fewer.

        Returns:
            Pairs (row index, pointwise volatility), largest first; ties by row index.

        Raises:
            InvalidInput: If the layer was not measured, or k is below 1.
        """
        if k < 1:
            raise InvalidInput("k", k, "at least 1")
        values, rows = look_up("layer", layer, self.pointwise).sort(descending=True, stable=True)
        return list(zip(rows[:k].tolist(), values[:k].tolist(), strict=True))

    def summary(self) -> dict[str, Any]:
        """Return everything but the values of single rows, ready for JSON.

        Returns:
            Strings, integers, finite floats, None, and lists and dictionaries of these. An
            estimate is a dictionary of `value`, `low`, `high` and `level`; a bound that is not
            finite is None.
        """
        per_row = ("pointwise", "one_sided")
        fields = (field.name for field in dataclasses.fields(self) if field.name not in per_row)
        return {name: plain(getattr(self, name)) for name in fields} | {"rank": self.rank()}

    def save(self, path: StrPath) -> None:
        """Write `summary()` and the values of single rows as JSON, all or nothing.

        Args:
            path: The file to write; a file that is there is replaced in one step.
        """
        rows = {"pointwise": plain(self.pointwise), "one_sided": plain(self.one_sided)}
        write_whole(path, to_json(self.summary() | rows), "path")


def measure(
    states: Mapping[str, Tensor],
    losses: Tensor,
    labels: Tensor,
    *,
    distance: Distance = "euclidean",
    kernel: str = "inverse",
    clip: float | None = None,
) -> Knowledge:
    """Measure the k-volatility of layers from their hidden states, over all pairs of rows.

    Source: Sun, Ma, Ge, Vosoughi, "Achieving Domain-Independent Certified Robustness via Knowledge
    Continuity", NeurIPS 2024, Definition 2, E |L - L'| / d(h, h') over two independent points. The
    estimate is the mean over ordered pairs of different rows, which is unbiased. All arithmetic is
    in float64; memory is O(block^2 + n) beside the states.

    Args:
        states: Hidden states by layer, in execution order: each [N, ...], flattened per row.
        losses: Loss of each row, [N], for example from `row_losses`.
        labels: Label of each row, [N]; compared for equality only.
        distance: `euclidean`, `manhattan`, `chebyshev`, `angular`, or a callable that takes float64
            blocks [m, d] and [k, d] and returns [m, k]; it must be symmetric and not negative.
        kernel: `inverse`, change / distance (Definition 2), or `one_plus`, change / (1 + distance)
            (the paper's scripts). Normalising `one_plus` costs two passes more.
        clip: Smallest distance, in the units of the distance: shorter ones count as this one, and
            pairs at distance 0 take part.

    Returns:
        The volatility of every layer, in loss per unit of distance, with its parts.

    Raises:
        InvalidInput: For fewer than 2 rows, tensors whose rows do not match, values that are not
            finite, unknown names, or distances so small that change / distance overflows.

    >>> import torch
    >>> states = {"encoder": torch.tensor([[0.0], [1.0], [3.0]])}
    >>> losses, labels = torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0, 1, 1])
    >>> knowledge = measure(states, losses, labels)
    >>> round(knowledge.volatility["encoder"].value, 4)  # (1/1 + 0.5/2 + 0.5/3) / 3
    0.4722
    >>> knowledge.worst("encoder", k=1)
    [(1, 0.625)]
    """
    _check_rows(states, losses, labels)
    resolve_distance(distance)
    weigh = resolve_kernel(kernel, clip)
    measured = {}
    for layer, values in states.items():
        with _naming(layer):
            rows = values.reshape(len(values), -1)
            measured[layer] = layer_volatility(rows, losses, labels, distance, weigh)
    by_layer: dict[str, Any] = {
        field.name: {layer: getattr(result, field.name) for layer, result in measured.items()}
        for field in dataclasses.fields(Volatility)
    }
    return Knowledge(
        layers=tuple(measured),
        **by_layer,
        distance=name_of(distance),
        kernel=kernel,
        clip=clip,
        n=len(losses),
        notes=_notes(measured, len(losses)),
    )


def layer_volatility(
    states: Tensor, losses: Tensor, labels: Tensor, distance: Distance, kernel: Kernel
) -> Volatility:
    """Measure one layer; `measure` checks the input first and is what users call.

    Args:
        states: Hidden states [n, d], finite, n at least 2.
        losses: Losses [n], finite.
        labels: Labels [n].
        distance: A name or a callable, as in `measure`.
        kernel: From `resolve_kernel`.

    Returns:
        The layer's volatility and its parts.

    Raises:
        InvalidInput: If the distance is not defined on these states, or change / distance
            overflows.
    """

    def sums_of(weight: PairFunction) -> PairSums:
        return pair_sums(states, losses, labels, distance, weight)

    sums = sums_of(kernel)
    if not bool((sums.total.sum() * sums.distance.sum()).isfinite()):
        raise InvalidInput("clip", "changes / distances that overflow", "a larger clip")
    return Volatility(
        volatility=_pair_mean(sums.total, sums.pairs),
        normalised=_normalised_offset(sums, sums_of, kernel)
        if kernel.offset
        else _normalised(sums),
        pointwise=(sums.total / sums.pairs).cpu(),
        one_sided=(sums.rise / sums.pairs).cpu(),
        same_label=_pair_mean(sums.same, sums.same_pairs) if sums.same_pairs.any() else None,
        other_label=_pair_mean(sums.other, sums.other_pairs) if sums.other_pairs.any() else None,
        collisions=_mean(sums.collisions, sums.pairs),
    )


def _normalised(sums: PairSums) -> Estimate:
    """Return mean kernel x mean distance: the kernel 1 / d with d in units of its mean."""
    without = _without_each(sums.total, sums.pairs) * _without_each(sums.distance, sums.pairs)
    value = _mean(sums.total, sums.pairs) * _mean(sums.distance, sums.pairs)
    return _with_interval(value, without)


def _normalised_offset(
    sums: PairSums, sums_of: Callable[[PairFunction], PairSums], kernel: Kernel
) -> Estimate:
    """Return E[change / (offset + d / m)], m the mean distance, from passes with offset m.

    Leaving a row out changes both the pairs and m; the second effect is taken to first order.
    """
    mean = _mean(sums.distance, sums.pairs)
    if mean == 0:
        return Estimate(0.0, 0.0, 0.0, LEVEL)
    scaled = dataclasses.replace(kernel, offset=kernel.offset * mean)
    total, pairs = sums_of(scaled).total, sums.pairs
    slope = _mean(sums_of(scaled.offset_slope).total, pairs)
    shift = _without_each(sums.distance, pairs) - mean
    return _with_interval(
        mean * _mean(total, pairs), mean * _without_each(total, pairs) + slope * shift
    )


def _mean(sums: Tensor, pairs: Tensor) -> float:
    return float(sums.sum() / pairs.sum())


def _pair_mean(sums: Tensor, pairs: Tensor) -> Estimate:
    return _with_interval(_mean(sums, pairs), _without_each(sums, pairs))


def _without_each(sums: Tensor, pairs: Tensor) -> Tensor:
    """Return the mean over pairs without row i, for each i; not finite if no pair is left.

    A row takes part in its own pairs twice, once in each order, hence the factors 2.
    """
    return (sums.sum() - 2 * sums) / (pairs.sum() - 2 * pairs)


def _with_interval(value: float, without: Tensor) -> Estimate:
    """Return the jackknife interval of a mean over pairs, cut at 0 as no pair weighs less.

    Source: Arvesen, "Jackknifing U-statistics", Annals of Mathematical Statistics, 1969.
    """
    if not bool(without.isfinite().all()):
        return Estimate(value, 0.0, math.inf, LEVEL)
    n = len(without)
    error = math.sqrt((n - 1) / n * float((without - without.mean()).square().sum()))
    return Estimate(value, max(0.0, value - QUANTILE * error), value + QUANTILE * error, LEVEL)


def _check_rows(states: Mapping[str, Tensor], losses: Tensor, labels: Tensor) -> None:
    """Check that all tensors are finite and have the same rows, at least 2.

    Raises:
        InvalidInput: For the first tensor that does not fit.
    """
    if not states:
        raise InvalidInput("states", "no layers", "at least one layer")
    layers = {f"states[{layer!r}]": values for layer, values in states.items()}
    tensors = {"losses": losses, "labels": labels} | layers
    for name, values in tensors.items():
        if not isinstance(values, Tensor):
            raise InvalidInput(name, type(values).__name__, "a tensor")
    n = losses.numel()
    if losses.shape != (n,) or n < 2:
        raise InvalidInput("losses", f"shape {tuple(losses.shape)}", "[N] with N at least 2")
    if labels.shape != (n,):
        raise InvalidInput("labels", f"shape {tuple(labels.shape)}", f"[{n}], one per loss")
    for name, values in layers.items():
        if values.shape[:1] != (n,) or values.numel() == 0:
            raise InvalidInput(name, f"shape {tuple(values.shape)}", f"[{n}, ...], a row per loss")
    for name, values in tensors.items():
        if bad := int((~values.reshape(n, -1).isfinite().all(1)).sum()):
            raise InvalidInput(name, f"NaN or infinity in {bad} of {n} rows", "finite values")


@contextmanager
def _naming(layer: str) -> Iterator[None]:
    """Say in which layer an argument turned out to be unusable.

    Yields:
        Once, to measure the layer.

    Raises:
        InvalidInput: The one raised inside, with the layer in it.
    """
    try:
        yield
    except InvalidInput as problem:
        where = f"{problem.argument} (layer {layer!r})"
        raise InvalidInput(where, problem.got, problem.wanted) from problem


def _notes(measured: Mapping[str, Volatility], n: int) -> tuple[str, ...]:
    """Return a sentence for everything that is missing or particular in the results."""
    some = next(iter(measured.values()))
    notes = [
        f"layer {layer!r}: every pair is at distance 0, so nothing can be said per unit of distance"
        for layer, result in measured.items()
        if result.collisions == 1
    ]
    if n == 2:
        notes.append("two rows make one pair, so the intervals are [0, inf)")
    if some.same_label is None:
        notes.append("same_label is empty: no two rows have the same label")
    if some.other_label is None:
        notes.append("other_label is empty: all rows have the same label")
    return tuple(notes)
