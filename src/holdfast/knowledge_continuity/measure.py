"""The k-volatility of hidden layers from their states, and what certificates rest on."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack

import torch
from torch import Tensor

from holdfast.arguments import check_number, check_whole, look_up
from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.evidence.evidence import (
    Edges,
    Evidence,
    Levels,
    Pilot,
    Sample,
    check_levels,
    choose_ratio,
    count_anchors,
    edges_for,
    pair_grid,
    pair_slopes,
    pair_tally,
    pilot,
    split,
)
from holdfast.knowledge_continuity.pairs.distance import Distance, name_of, resolve_distance
from holdfast.knowledge_continuity.pairs.kernels import Kernel, resolve_kernel
from holdfast.knowledge_continuity.pairs.localise import brittle_rows, by_class
from holdfast.knowledge_continuity.pairs.pairs import PairSums, Question, pair_sums, sampled_sums
from holdfast.knowledge_continuity.pairs.points import Points
from holdfast.knowledge_continuity.pairs.volatility import Volatility, layer_volatility
from holdfast.knowledge_continuity.result import Knowledge
from holdfast.types import Estimate

# Smallest distance of the clipped volatility, as a share of the median distance.
FLOOR = 1e-2
# Squares of distances between states beyond this overflow, or vanish, in float64.
LARGEST = 1e140

Reference = tuple[Mapping[str, Tensor], Tensor]


class Options(TypedDict, total=False):
    """How pairs are measured.

    Attributes:
        kernel: `inverse`, change / distance (Definition 2), or `one_plus`, change / (1 + distance)
            (the paper's scripts). Normalising `one_plus` costs two passes more.
        clip: Smallest distance, in the units of the distance: shorter ones count as this one, and
            pairs at distance 0 take part.
        pairs: `all`, or in how many rounds the rows are paired up at random.
        near: Share of pairs that count as near.
        grid: Distances and loss changes at which certificates are counted, fixed beforehand.
        seed: Of the choice of anchors and of random pairs.
    """

    kernel: str
    clip: float | None
    pairs: Literal["all"] | int
    near: float
    grid: Levels | None
    seed: int


@dataclass(frozen=True)
class Plan:
    """The distance and the options, with their defaults; see `Options`."""

    distance: Distance
    kernel: str = "inverse"
    clip: float | None = None
    pairs: Literal["all"] | int = "all"
    near: float = 0.01
    grid: Levels | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        resolve_distance(self.distance)
        resolve_kernel(self.kernel, self.clip)
        if self.pairs != "all":
            check_whole("pairs", self.pairs, "'all', or a number of rounds", 1)
        wanted = "a share of pairs, above 0 and at most 1"
        near = check_number("near", self.near, lambda share: 0 < share <= 1, wanted)
        object.__setattr__(self, "near", near)
        check_whole("seed", self.seed, "an integer")
        if self.grid is not None:
            check_levels(self.grid)

    @functools.cached_property
    def weigh(self) -> Kernel:
        """The kernel of this name and clip."""
        return resolve_kernel(self.kernel, self.clip)


def measure(
    states: Mapping[str, Tensor],
    losses: Tensor,
    labels: Tensor,
    distance: Distance = "euclidean",
    reference: Reference | None = None,
    **options: Unpack[Options],
) -> Knowledge:
    """Measure the k-volatility of layers from their hidden states.

    Source: Sun, Ma, Ge, Vosoughi, "Achieving Domain-Independent Certified Robustness via Knowledge
    Continuity", NeurIPS 2024, Definition 2, E |L - L'| / d(h, h') over two independent points. The
    estimate is the mean over ordered pairs of different rows, which is unbiased. Memory is
    O(block^2 + n) beside the states.

    Args:
        states: Hidden states by layer, in execution order: each [N, ...], flattened per row.
        losses: Loss of each row, [N], for example from `row_losses`.
        labels: Label of each row, [N]; compared for equality only.
        distance: `euclidean`, `manhattan`, `chebyshev`, `angular`, or a callable that takes float64
            blocks [m, d] and [k, d] and returns [m, k]; it must be symmetric and not negative.
        reference: States by layer and losses of a fixed set of anchors, none of them among the
            rows. Without it a random half of the rows (at most 2000) are the anchors, and
            certificates count the others.
        options: See `Options`.

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
    for option in options:
        look_up("option", option, Options.__annotations__)
    plan = Plan(distance, **options)
    check_rows(states, losses, labels)
    rounding = torch.finfo(losses.dtype).eps if losses.is_floating_point() else 0.0
    resolution = rounding * float(losses.detach().double().abs().max())
    return measure_layers(states, losses, labels, reference, plan, resolution)


def measure_layers(
    states: Mapping[str, Tensor],
    losses: Tensor,
    labels: Tensor,
    reference: Reference | None,
    plan: Plan,
    resolution: float,
) -> Knowledge:
    """Measure with checked options; see `measure`.

    Args:
        states: As for `measure`.
        losses: As for `measure`.
        labels: As for `measure`.
        reference: As for `measure`.
        plan: The options.
        resolution: Changes of loss below this cannot be told from rounding.

    Returns:
        The volatility of every layer.
    """
    check_rows(states, losses, labels)
    states = {layer: values.detach() for layer, values in states.items()}
    losses = losses.detach()
    if reference is not None:
        _check_reference(states, reference)
    measured: dict[str, Volatility] = {}
    evidence: dict[str, Evidence | None] = {}
    neighbours, classes = {}, {}
    for layer, values in states.items():
        with _naming(layer):
            rows = Sample(values.reshape(len(values), -1), losses.to(values.device))
            anchors = None
            if reference is not None:
                given = reference[0][layer].detach().to(values)
                anchors = Sample(
                    given.reshape(len(given), -1), reference[1].detach().to(given.device)
                )
            found = _layer(rows, labels, anchors, plan)
            measured[layer], evidence[layer], classes[layer] = found
            pointwise = measured[layer].pointwise
            neighbours[layer] = brittle_rows(rows, labels, pointwise, plan.distance)
    by_layer: dict[str, Any] = {
        field.name: {layer: getattr(result, field.name) for layer, result in measured.items()}
        for field in dataclasses.fields(Volatility)
    }
    return Knowledge(
        layers=tuple(measured),
        **by_layer,
        by_class=classes,
        evidence=evidence,
        neighbours=neighbours,
        distance=name_of(plan.distance),
        kernel=plan.kernel,
        clip=plan.clip,
        n=len(losses),
        notes=(
            *_notes(measured, evidence, len(losses)),
            *_resolution_notes(measured, losses, resolution),
        ),
        loss_resolution=resolution,
    )


def _layer(
    rows: Sample, labels: Tensor, given: Sample | None, plan: Plan
) -> tuple[Volatility, Evidence | None, dict[int | float, Estimate]]:
    """Measure one layer, and count what its certificates rest on."""
    n = len(rows.losses)
    roles = torch.ones(n, dtype=torch.int64, device=rows.states.device)
    anchors, tests = given, rows
    if anchors is None:
        chosen, others = split(n, plan.seed)
        roles[chosen] = 0
        anchors, tests = rows.take(chosen), rows.take(others)
    known = pilot(anchors, plan.distance, plan.near)
    edges = edges_for(anchors, plan.distance, known, plan.grid)
    points = Points(rows.states, rows.losses, labels)
    question = _question(plan, known, edges, roles)
    sums_of = functools.partial(_sums, points, plan)
    sums = sums_of(question)
    volatility = layer_volatility(sums, question, sums_of)
    classes = by_class(rows, labels, sums, question, plan.seed)
    if known is None or edges is None:
        return volatility, None, classes
    nearest, each = count_anchors(anchors, tests, plan.distance, edges)
    if plan.pairs != "all":
        # Rounds among all rows are no perfect matchings of the certification rows.
        own = Points(tests.states, tests.losses, torch.zeros(len(tests.losses)))
        everyone = torch.ones(len(own), dtype=torch.int64, device=tests.states.device)
        sums = _sums(own, plan, _question(plan, known, edges, everyone))
    counts = sums.certified
    pairs = pair_tally(counts, edges, len(tests.losses))
    slopes = pair_slopes(sums.ratio, int(counts.sum()), choose_ratio(known), edges)
    found = Evidence(edges, nearest, each, pairs, slopes, len(tests.losses))
    return volatility, found, classes


def _question(plan: Plan, known: Pilot | None, edges: Edges | None, roles: Tensor) -> Question:
    clipped = plan.weigh.clip or plan.weigh.offset
    return Question(
        plan.distance,
        plan.weigh,
        0.0 if known is None else known.near,
        0.0 if known is None or clipped else FLOOR * known.median,
        None if known is None or edges is None else pair_grid(edges, choose_ratio(known), roles),
    )


def _sums(points: Points, plan: Plan, question: Question) -> PairSums:
    if plan.pairs == "all":
        return pair_sums(points, question)
    return sampled_sums(points, question, plan.pairs, plan.seed)


def _check_reference(states: Mapping[str, Tensor], reference: Reference) -> None:
    """Check that the anchors are rows of the same layers, and other rows than those counted.

    Raises:
        InvalidInput: If they are not.
    """
    if not isinstance(reference, list | tuple) or len(reference) != 2:
        raise InvalidInput("reference", type(reference).__name__, "(states by layer, losses)")
    anchors, losses = reference
    if not isinstance(anchors, Mapping) or not isinstance(losses, Tensor):
        got = f"({type(anchors).__name__}, {type(losses).__name__})"
        raise InvalidInput("reference", got, "(states by layer, losses)")
    missing = [layer for layer in states if layer not in anchors]
    if missing:
        raise InvalidInput("reference", f"no states of {missing}", "states of every layer")
    check_rows({layer: anchors[layer] for layer in states}, losses, torch.zeros(len(losses)))
    for layer, values in states.items():
        if anchors[layer].shape[1:] != values.shape[1:]:
            got = f"states of shape {tuple(anchors[layer].shape)} in layer {layer!r}"
            raise InvalidInput("reference", got, f"[A, {', '.join(map(str, values.shape[1:]))}]")
    layer = next(iter(states))
    own = {row.numpy().tobytes() for row in anchors[layer].detach().cpu()}
    shared = sum(row.numpy().tobytes() in own for row in states[layer].detach().cpu())
    if 2 * shared > len(states[layer]):
        got = f"{shared} of {len(states[layer])} rows that are also in the data"
        raise InvalidInput("reference", got, "anchors that are not among the certification rows")


def check_rows(states: Mapping[str, Tensor], losses: Tensor, labels: Tensor) -> None:
    """Check that all tensors are finite and have the same rows, at least 2.

    Raises:
        InvalidInput: For the first tensor that does not fit.
    """
    if not isinstance(states, Mapping) or not states:
        got = "no layers" if isinstance(states, Mapping) else type(states).__name__
        raise InvalidInput("states", got, "a mapping of at least one layer to its states")
    layers = {f"states[{layer!r}]": values for layer, values in states.items()}
    tensors = {"losses": losses, "labels": labels} | layers
    for name, values in tensors.items():
        if not isinstance(values, Tensor):
            raise InvalidInput(name, type(values).__name__, "a tensor")
        if values.is_complex() or values.layout != torch.strided or values.is_meta:
            kind = f"{values.dtype}, {values.layout} on {values.device}"
            raise InvalidInput(name, kind, "a dense tensor of real numbers")
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
    for name, values in layers.items():
        largest = max(abs(float(end)) for end in values.detach().aminmax())
        if largest and not 1 / LARGEST < largest < LARGEST:
            wanted = f"units in which the largest is from {1 / LARGEST:g} to {LARGEST:g}"
            raise InvalidInput(name, f"entries up to {largest:g}", wanted)


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


def _notes(
    measured: Mapping[str, Volatility], evidence: Mapping[str, Evidence | None], n: int
) -> tuple[str, ...]:
    """Return a sentence for everything that is missing or particular in the results."""
    some = next(iter(measured.values()))
    notes = [
        f"layer {layer!r}: every pair is at distance 0, so nothing can be said per unit of distance"
        for layer, result in measured.items()
        if result.collisions == 1
    ]
    notes += [
        f"layer {layer!r}: no certificate, as no two anchors are apart"
        for layer, found in evidence.items()
        if found is None and measured[layer].collisions < 1
    ]
    if n == 2:
        notes.append("two rows make one pair, so the intervals are [0, inf)")
    if some.same_label is None:
        notes.append("same_label is empty: no two rows have the same label")
    if some.other_label is None:
        notes.append("other_label is empty: all rows have the same label")
    return tuple(notes)


def _resolution_notes(
    measured: Mapping[str, Volatility], losses: Tensor, resolution: float
) -> tuple[str, ...]:
    """Return a sentence for every volatility that rests on changes of loss that may be rounding."""
    n, ordered = len(losses), losses.double().sort().values
    ranks = torch.arange(1 - n, n, 2, dtype=torch.float64, device=ordered.device)
    mean = 2 * float((ranks * ordered).sum()) / (n * (n - 1))
    notes = [
        resolution_note(
            f"layer {layer!r}, near pairs", result.near.value * result.near_radius, resolution
        )
        for layer, result in measured.items()
        if result.near is not None
    ]
    return tuple(filter(None, (resolution_note("all pairs", mean, resolution), *notes)))


def resolution_note(what: str, change: float, resolution: float) -> str:
    """Return a sentence where a mean change of loss is near its rounding; else nothing.

    Args:
        what: Which pairs it is about.
        change: Their mean change of loss, or more.
        resolution: As in `Knowledge`.
    """
    # Below a hundred times the resolution, rounding may make up a hundredth of the volatility.
    if not change < 100 * resolution:
        return ""
    return (
        f"{what}: the loss changes by {change:.2g} on average or less, and changes below "
        f"{resolution:.2g} cannot be told from rounding of the outputs: a model in a wider type "
        "(model.double()) would tell"
    )
