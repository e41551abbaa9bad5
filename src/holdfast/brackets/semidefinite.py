"""Upper bounds from semidefinite programming, each proved before it is shown."""

import heapq
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from holdfast.bounds.linear import Relaxed
from holdfast.bounds.regions import Regions
from holdfast.brackets.blockwise import blockwise_upper
from holdfast.brackets.budget import Skipped, affords, products, products_a_second
from holdfast.errors import Unsupported
from holdfast.graph.comparisons import with_pairs
from holdfast.graph.ir import Graph
from holdfast.ops import Kind
from holdfast.sdp.chain.chain import Chain, chain_of
from holdfast.sdp.chain.proof import chain_upper
from holdfast.sdp.chain.search import minimise as minimise_chain
from holdfast.sdp.chain.start import closed_form
from holdfast.sdp.dense.interior import minimise, solve
from holdfast.sdp.form import TOO_EXTREME, NormalForm
from holdfast.sdp.lift import normal_form
from holdfast.sdp.proof import prove, prove_linf
from holdfast.sdp.reduction import between, output_row, reduce, transpose
from holdfast.threads import one_thread
from holdfast.types import Box, Region

MOST_UNITS = 3000
"""Beyond so many activations one iteration takes longer than anybody waits."""

Keep = Callable[[Any], None]
"""Takes the best multipliers so far, whatever form a solver gives them."""


def _quietly(why: str) -> None:
    """Tell nobody."""


def slope_bounds(
    graph: Graph,
    norm: float,
    tolerance: float,
    seconds: float,
    region: Region | None,
    skipped: Skipped = _quietly,
) -> Iterator[tuple[float, str]]:
    """Yield proved upper bounds from the slopes of all activations together, and their methods.

    What holds for all inputs holds on a region too. As slopes on a region lie within those over
    the real line, its own bound is the smaller, up to the accuracy of the solvers; so all inputs
    come second, and only where the time they take is not missed.

    Args:
        graph: Captured model.
        norm: 1, 2 or inf.
        tolerance: Relative accuracy of the optimum, for l2.
        seconds: Time to spend.
        region: Where the inputs lie; None for everywhere.
        skipped: Told what does not fit into the time, or into the memory.
    """
    start = time.perf_counter()
    for where in (region,) if region is None else (region, None):
        # A tenth of the time for the region says that another fifth is enough for all inputs.
        if where is not region and time.perf_counter() - start > 0.1 * seconds:
            return
        left = seconds if where is region else 0.2 * seconds
        begun, found = time.perf_counter(), False
        if norm == 2.0:
            bounds = lipsdp_upper(graph, tolerance, left, where, skipped)
        else:
            bounds = row_bounds_upper(graph, norm, left, where, skipped)
        for bound in bounds:
            found = True
            yield bound, "LipSDP" if where is None else "LipSDP on the region"
        if norm == 2.0 and where is None and not found:
            left -= time.perf_counter() - begun
            for bound in blockwise_upper(graph, left, skipped):
                yield bound, "LipSDP on blocks"


def lipsdp_upper(
    graph: Graph,
    tolerance: float,
    seconds: float,
    region: Region | None = None,
    skipped: Skipped = _quietly,
) -> Iterator[float]:
    """Yield proved upper bounds of the l2 constant from the slopes of all activations.

    Fazlyab, Robey, Hassani, Morari, Pappas, "Efficient and accurate estimation of Lipschitz
    constants for deep neural networks" (2019), one multiplier per neuron, on any graph of linear
    maps, activations, maxima and small sorts. A graph with other operations yields nothing.

    Args:
        graph: Captured model.
        tolerance: Relative accuracy of the optimum.
        seconds: Time to spend: what does not fit is not begun, and the solver ends with the best
            multipliers until then.
        region: Where the inputs lie; None for everywhere.
        skipped: Told what does not fit into the time, or into the memory.

    Yields:
        Ever lower proved bounds.

    Raises:
        KeyboardInterrupt: When the user interrupts, after the best bound so far.
    """
    end, best = time.perf_counter() + seconds, math.inf
    try:
        if not _form_fits(graph, seconds, skipped):
            return
        form = form_on(graph, region, end)
        for bound in _spectral_bounds(form, tolerance, end, skipped):
            if bound < best:
                best = bound
                yield bound
    except (Unsupported, *TOO_EXTREME):
        return


def _form_fits(graph: Graph, seconds: float, skipped: Skipped) -> bool:
    """Return whether the normal form of a network can be written down."""
    pairs = with_pairs(graph)
    units = sum(
        math.prod(node.shape) // (2 if node.op == "compare" else 1)
        for node in pairs.nodes
        if node.perturbed and (node.kind is Kind.SCALAR or node.op == "compare")
    )
    if units > MOST_UNITS:
        skipped(f"LipSDP was left out: {units} activations, and it takes at most {MOST_UNITS}")
        return False
    width = math.prod(graph.perturbed_input.shape) + units
    outputs = math.prod(graph[graph.output].shape)
    # Rows, error rows and a copy of each; what is linear is applied to every column, three times.
    numbers = 3.0 * width * (width + outputs)
    return affords("LipSDP", 3.0 * width * products(graph), numbers, seconds, skipped)


def _spectral_bounds(
    whole: NormalForm, tolerance: float, end: float, skipped: Skipped
) -> Iterator[float]:
    """Yield the bound of the closed form, where there is one, and that of the solver."""
    chain = chain_of(whole)
    if chain is not None:
        # Each layer: products, a factor, a proof.
        sweep = 12.0 * sum(layer.neurons**2 * max(layer.inner.shape) for layer in chain.layers)
        numbers = 6.0 * sum(layer.inner.numel() for layer in chain.layers)
        if not affords("LipSDP", sweep, numbers, end - time.perf_counter(), skipped):
            return
        yield _closed_form_upper(chain)
        # From so many layers, or units, the recursion along the chain beats one large matrix.
        if len(chain.layers) >= 5 or whole.units > 1500:
            left = end - time.perf_counter()
            # The least is one step, with the second derivatives of every pair of units.
            step = 4.0 * sweep + float(whole.units) ** 2 * max(n.neurons for n in chain.layers)
            square = 3.0 * float(whole.units) ** 2
            if affords("LipSDP beyond its closed form", step, square, left, skipped):
                yield from _chain_upper(chain, tolerance, left - sweep / products_a_second())
            return
    moving = int((whole.low < whole.high).sum())
    size = moving + min(whole.inputs, moving + len(whole.C))
    left = end - time.perf_counter()
    if not affords("LipSDP", *_dense_cost(size), left, skipped):
        return
    form = reduce(whole)
    left = end - time.perf_counter() - _PROOF * size**3 / products_a_second()

    def search(keep: Keep) -> None:
        keep(solve(form, tolerance, left, lambda bound, multipliers: keep(multipliers)))

    yield from _proved(search, lambda multipliers: prove(form, multipliers))


_PROOF = 12.0
"""Products that a proof takes, in cubes of the size of the matrix."""


def _dense_cost(size: int) -> tuple[float, float]:
    """Return the products that a few steps on one large matrix and a proof take, and the memory.

    Four steps, of some 20 cubes each, are about half of what a solution takes.
    """
    return (80.0 + _PROOF) * float(size) ** 3, 12.0 * float(size) ** 2


def _closed_form_upper(chain: Chain) -> float:
    """Return the bound of one multiplier per layer, which takes a few products of matrices."""
    with one_thread(), np.errstate(over="ignore", invalid="ignore"):
        return chain_upper(chain, chain.split(closed_form(chain)))


def _chain_upper(chain: Chain, tolerance: float, seconds: float) -> Iterator[float]:
    """Yield the proved bound of the best multipliers found for a chain."""

    def search(keep: Keep) -> None:
        minimise_chain(chain, tolerance, seconds, lambda estimate, multipliers: keep(multipliers))

    yield from _proved(search, lambda multipliers: chain_upper(chain, multipliers))


def _proved(search: Callable[[Keep], None], prove_them: Callable[[Any], float]) -> Iterator[float]:
    """Yield what is proved of the last multipliers that a search kept, also when interrupted."""
    best: list[Any] = []

    def keep(multipliers: Any) -> None:
        best[:] = [multipliers]

    try:
        with one_thread(), np.errstate(over="ignore", invalid="ignore"):
            search(keep)
    except KeyboardInterrupt:
        yield from map(prove_them, best)
        raise
    yield from map(prove_them, best)


def form_on(graph: Graph, region: Region | None, end: float = math.inf) -> NormalForm:
    """Return the normal form of a network on a region, not yet reduced.

    Any two points of a convex region have their pre-activations within the bounds of the region,
    so that slopes between them are those of the activation on these intervals. What a box holds
    fixed is the same in both points.

    Args:
        graph: Captured model.
        region: A ball or a box; None for all inputs.
        end: Reading of `time.perf_counter` from which slopes are those of interval arithmetic.

    Raises:
        Unsupported: When an op has no slopes or no bounds, or there are too many units.
    """
    if region is None:
        return normal_form(graph, MOST_UNITS)
    paired, slopes = Relaxed(graph, Regions.of(region), end).slopes()
    form = normal_form(paired, MOST_UNITS, slopes)
    if isinstance(region, Box):
        return between(form, (region.high > region.low).flatten().numpy())
    return form


def row_bounds_upper(
    graph: Graph,
    norm: float,
    seconds: float,
    region: Region | None = None,
    skipped: Skipped = _quietly,
) -> Iterator[float]:
    """Yield ever lower proved bounds of the l1 or linf constant, one output row at a time.

    The linf constant is the largest of the rows' constants from linf to a number; the l1 constant
    is that of the transposed network. All rows are bounded roughly first, then the worst one is
    solved, again and again.

    Args:
        graph: Captured model.
        norm: 1 or inf.
        seconds: Time to spend: what does not fit is not begun.
        region: Where the inputs lie; None for everywhere.
        skipped: Told what does not fit into the time, or into the memory.

    Yields:
        Proved bounds.
    """
    end = time.perf_counter() + seconds
    try:
        if not _form_fits(graph, seconds, skipped):
            return
        form = form_on(graph, region, end)
        form = transpose(form) if norm == 1.0 else form
    except (Unsupported, *TOO_EXTREME):
        return
    size = int((form.low < form.high).sum()) + form.inputs
    count, numbers = _dense_cost(size)
    left = end - time.perf_counter()
    if not affords("LipSDP", len(form.C) * count, numbers, left, skipped):
        return
    queue: list[tuple[float, int, bool]] = []
    for row in range(len(form.C)):
        left = end - time.perf_counter()
        rough = row_upper(output_row(form, row), math.inf, 0.3, max(left, 0.0))
        heapq.heappush(queue, (-rough, row, False))
        if left < 0.0:
            return
    while queue:
        worst, row, solved = heapq.heappop(queue)
        yield -worst
        left = end - time.perf_counter()
        if solved or left < count / products_a_second():
            return
        bound = min(-worst, row_upper(output_row(form, row), math.inf, 1e-3, left))
        heapq.heappush(queue, (-bound, row, True))


def spectral_constant_upper(graph: Graph) -> float:
    """Return the LipSDP bound of the global l2 constant; inf where it does not apply.

    It depends on the weights alone: no clock, one thread.
    """
    try:
        form = reduce(normal_form(graph, 1200))  # they take some ten seconds
    except (Unsupported, *TOO_EXTREME):
        return math.inf
    return row_upper(form, 2.0)


def row_upper(
    form: NormalForm, norm: float, accuracy: float = 1e-3, seconds: float = math.inf
) -> float:
    """Return the LipSDP bound of a normal form, from l2 to l2 or from linf to its one output.

    Args:
        form: Not necessarily reduced; for linf with one output row.
        norm: 2 or inf, on the inputs.
        accuracy: Relative accuracy of the optimum.
        seconds: Time for the solver, which ends with the best multipliers until then.

    Returns:
        A proved bound; inf where the weights are too extreme for the method.
    """
    try:
        # Extreme weights may overflow, and then nothing is proved.
        with one_thread(), np.errstate(over="ignore", invalid="ignore"):
            return _solved(form, norm, accuracy, seconds)
    except TOO_EXTREME:
        return math.inf


def _solved(form: NormalForm, norm: float, accuracy: float, seconds: float) -> float:
    """Reduce, solve and prove one normal form."""
    if norm == 2.0:
        small = reduce(form)
        return prove(small, solve(small, accuracy, seconds))
    small = reduce(form, rotate=False)
    weights, multipliers = minimise(small, True, (accuracy, seconds))
    return prove_linf(small, weights, multipliers)
