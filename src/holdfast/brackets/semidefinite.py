"""Upper bounds from semidefinite programming, each proved before it is shown."""

from collections.abc import Iterator

from holdfast.errors import InvalidInput, Unsupported
from holdfast.graph.ir import Graph
from holdfast.lipsdp.interior import solve
from holdfast.lipsdp.lift import normal_form
from holdfast.lipsdp.normal_form import Array
from holdfast.lipsdp.proof import prove
from holdfast.lipsdp.reduction import reduce

MOST_UNITS = 3000
"""Beyond so many activations one iteration takes longer than anybody waits."""


def lipsdp_upper(graph: Graph, tolerance: float, seconds: float) -> Iterator[float]:
    """Yield proved upper bounds of the global l2 constant from the slopes of all activations.

    Fazlyab, Robey, Hassani, Morari, Pappas, "Efficient and accurate estimation of Lipschitz
    constants for deep neural networks" (2019), one multiplier per neuron, on any graph of linear
    maps, activations, maxima and small sorts. A graph with other operations yields nothing.

    Args:
        graph: Captured model.
        tolerance: Relative accuracy of the optimum.
        seconds: Time for the solver; it ends with the best multipliers until then.

    Yields:
        Proved bounds.

    Raises:
        KeyboardInterrupt: When the user interrupts, after the best bound so far.
    """
    try:
        form = reduce(normal_form(graph, MOST_UNITS))
    except Unsupported:
        return
    best: list[Array] = []

    def keep(bound: float, multipliers: Array) -> None:
        best[:] = [multipliers]

    try:
        multipliers = solve(form, tolerance, seconds, keep)
    except InvalidInput:
        return  # no feasible start in float64: the weights are too extreme for this method
    except KeyboardInterrupt:
        if best:
            yield prove(form, best[0])
        raise
    yield prove(form, multipliers)
