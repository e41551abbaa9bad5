"""The k-volatility of hidden layers from their states, and what certificates rest on."""

import dataclasses
import functools
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import HoldfastWarning, InvalidInput
from holdfast.knowledge_continuity.evidence.edges import Edges, Pilot, choose_edges, pilot, split
from holdfast.knowledge_continuity.evidence.evidence import (
    ALONE,
    REPEATED,
    Evidence,
    count_anchors,
    pair_slopes,
    pair_tally,
)
from holdfast.knowledge_continuity.evidence.grid import Grid
from holdfast.knowledge_continuity.evidence.repeats import repeats
from holdfast.knowledge_continuity.notes import notes_on, repeats_note
from holdfast.knowledge_continuity.options import KnowledgeOptions
from holdfast.knowledge_continuity.pairs.distance import Distance, name_of, relative_error
from holdfast.knowledge_continuity.pairs.kernels import resolve_kernel
from holdfast.knowledge_continuity.pairs.localise import Brittle, brittle_rows, by_class
from holdfast.knowledge_continuity.pairs.pairs import PairSums, Question, pair_sums, sampled_sums
from holdfast.knowledge_continuity.pairs.points import Points
from holdfast.knowledge_continuity.pairs.volatility import Volatility, layer_volatility
from holdfast.knowledge_continuity.result import Knowledge
from holdfast.knowledge_continuity.states.given import Reference, check_rows, given_states
from holdfast.knowledge_continuity.states.states import HiddenStates


def measure(
    states: Mapping[str, Tensor],
    losses: Tensor,
    labels: Tensor,
    distance: Distance = "euclidean",
    reference: Reference | None = None,
    **options: Any,
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
        reference: States by layer and losses of a fixed set of anchors. Without it a random half of
            the rows (at most 2000) are the anchors, and certificates count the others.
        options: `kernel`, `clip`, `pairs`, `near`, `grid`, `seed`, `repeats`: see
            `KnowledgeOptions`.

    Returns:
        The volatility of every layer, in loss per unit of distance, with its parts.

    Raises:
        InvalidInput: For fewer than 2 rows, tensors whose rows do not match, values that are not
            finite, unknown names, or distances so small that change / distance overflows.

    Warns:
        HoldfastWarning: When rows are in the reference too; certificates do not count them.

    >>> import torch
    >>> states = {"encoder": torch.tensor([[0.0], [1.0], [3.0]])}
    >>> losses, labels = torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0, 1, 1])
    >>> knowledge = measure(states, losses, labels)
    >>> round(knowledge.volatility["encoder"].value, 4)  # (1/1 + 0.5/2 + 0.5/3) / 3
    0.4722
    >>> knowledge.worst("encoder", k=1)
    [(1, 0.625)]
    """
    checked = KnowledgeOptions.named(
        options, loss="cross_entropy", distance=distance, pooling="mean"
    )
    return measure_layers(*given_states(states, losses, labels, reference), checked)


def measure_layers(
    rows: HiddenStates, anchors: HiddenStates | None, options: KnowledgeOptions
) -> Knowledge:
    """Measure rows whose states are known; see `measure`.

    Args:
        rows: At least 2.
        anchors: A fixed set; None for a random half of the rows.
        options: How pairs are measured.

    Returns:
        The volatility of every layer, with its parts and evidence.

    Raises:
        InvalidInput: As for `measure`.
        KeyboardInterrupt: When the user interrupts before a layer is done.
    """
    check_rows(rows.states, rows.losses, rows.labels)
    roles, told = _roles(rows, anchors, options)
    found: dict[str, Any] = {}
    try:
        for layer in rows.states:
            with _naming(layer):
                found[layer] = _measured(rows, anchors, roles, options, layer)
    except KeyboardInterrupt:
        if not found:
            raise
    measured, evidence, classes, neighbours = (
        {layer: each[part] for layer, each in found.items()} for part in range(4)
    )
    stopped = f"{len(found)} of {len(rows.states)} layers" * (len(found) < len(rows.states))
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
        distance=name_of(options.distance),
        kernel=options.kernel,
        clip=options.clip,
        n=len(rows.losses),
        notes=(*notes_on(rows, measured, evidence), *told),
        rounding=2 * float(rows.roundings.mean()),
        seed=options.seed,
        stopped=stopped,
    )


def _measured(
    rows: HiddenStates,
    anchors: HiddenStates | None,
    roles: Tensor,
    options: KnowledgeOptions,
    layer: str,
) -> tuple[Volatility, Evidence | None, dict[int | float, Any], tuple[Brittle, ...]]:
    """Return the volatility, evidence, classes and most brittle rows of one layer."""
    values = rows.states[layer]
    points = Points(values, rows.losses, rows.labels)
    given = None
    if anchors is not None:
        states = anchors.states[layer].to(values)
        given = Points(states, anchors.losses, anchors.labels)
    known = roles.to(values.device), rows.roundings.to(values.device)
    found = _layer(points, given, known, options)
    return *found, brittle_rows(points, found[0].pointwise, options.distance)


def _roles(
    rows: HiddenStates, anchors: HiddenStates | None, options: KnowledgeOptions
) -> tuple[Tensor, tuple[str, ...]]:
    """Return what every row is to certificates: an anchor (0), `REPEATED` or `ALONE`, and a note.

    Warns:
        HoldfastWarning: When rows are anchors that the user gave.
    """
    roles = torch.full((len(rows.losses),), ALONE)
    if anchors is None:
        roles[split(len(roles), options.seed)[0]] = 0
    if options.repeats == "draws":
        return roles, ()
    identity = rows.identity.cpu()
    others = identity[roles == 0] if anchors is None else anchors.identity.cpu()
    if others.shape[1:] != identity.shape[1:]:  # inputs of another kind
        others = identity[:0]
    counted = roles.nonzero().flatten()
    anchored, again = repeats(others, identity[counted])
    roles[counted[anchored | again]] = REPEATED
    told = tuple(repeats_note(int(anchored.sum()), int(again.sum()), len(counted)))
    if anchors is not None and bool(anchored.any()):
        warnings.warn(f"reference: {told[0]}", HoldfastWarning, stacklevel=4)
    return roles, told


def _layer(
    points: Points,
    given: Points | None,
    of_rows: tuple[Tensor, Tensor],
    options: KnowledgeOptions,
) -> tuple[Volatility, Evidence | None, dict[int | float, Any]]:
    """Measure one layer, whose rows have these roles and roundings, and count its evidence."""
    roles, roundings = of_rows
    counted = roles.nonzero().flatten()
    anchors = points.take((roles == 0).nonzero().flatten()) if given is None else given
    known = pilot(anchors, options.distance, options.near)
    edges = None
    if known is not None:
        error = relative_error(options.distance, points.states.dtype)
        edges = choose_edges(known, options.grid, error)
    question = _question(options, known, edges, roles)
    sums_of = functools.partial(_sums, points, options)
    sums = sums_of(question)
    volatility = layer_volatility(sums, question, sums_of, roundings)
    classes = by_class(points, sums, question, options.seed)
    if known is None or edges is None:
        return volatility, None, classes
    tests = points if given is not None else points.take(counted)
    repeated = roles[counted] == REPEATED
    nearest, each = count_anchors(anchors, tests, options.distance, edges, repeated)
    alone = worth = int((~repeated).sum())
    if options.pairs != "all":
        # Rounds among all rows are no perfect matchings of the certification rows. A row that
        # repeats takes at most one pair from each round.
        sums = _sums(tests, options, _question(options, known, edges, roles[counted]))
        worth = max(0, 2 * (len(counted) // 2 - (len(counted) - alone)))
    pairs = slopes = None
    if sums.counts is not None and (pairs := pair_tally(sums.counts, edges, worth)):
        slopes = pair_slopes(sums.ratio, pairs, edges)
    left_out = len(counted) - alone if options.repeats == "copies" else None
    found = Evidence(edges, nearest, each, pairs, known.ratio, slopes, alone, left_out)
    return volatility, found, classes


def _question(
    options: KnowledgeOptions, known: Pilot | None, edges: Edges | None, roles: Tensor
) -> Question:
    kernel = resolve_kernel(options.kernel, options.clip)
    if known is None or edges is None:
        return Question(options.distance, kernel)
    bins = (edges.distance_bins().to(roles.device), edges.change_bins().to(roles.device))
    # A hundredth of the median distance: of pairs that near there are few in any dimension.
    floor = 0.0 if kernel.clip or kernel.offset else 1e-2 * known.median
    return Question(options.distance, kernel, known.near, floor, Grid(*bins, roles, known.ratio))


def _sums(points: Points, options: KnowledgeOptions, question: Question) -> PairSums:
    if options.pairs == "all":
        return pair_sums(points, question)
    return sampled_sums(points, question, options.pairs, options.seed)


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
