"""The verb `lipschitz`: a proved upper and an attained lower bound, closing while time lasts."""

import dataclasses

import torch
from torch import Tensor, nn

from holdfast.arguments import check_example, check_model, fit_inputs
from holdfast.brackets.bracket import Bracket
from holdfast.brackets.search import LipschitzOptions, Search
from holdfast.errors import Unsupported
from holdfast.graph.capture import Example, captured
from holdfast.graph.ir import Graph
from holdfast.graph.units import in_units
from holdfast.moves import Entries, Moves, Units
from holdfast.types import Ball, Region, Report, silent


def lipschitz(  # noqa: PLR0913 - the signature is the contract's
    model: nn.Module,
    example: Example,
    norm: float = 2,
    region: Region | None = None,
    seconds: float = 10.0,
    tolerance: float = 1e-3,
    *,
    free: Entries = None,
    scale: Units = None,
    seed: int = 0,
    report: Report = silent,
) -> Bracket:
    """Bracket the Lipschitz constant of a trained network.

    The upper bound is the least of the product of gains, LipSDP (on blocks where the whole is too
    large for it) and, for small networks of linear pieces, branch and bound over their pieces; with
    a region also that of a box around the Jacobian, which has room for products, powers and
    attention. Where at most 12 entries move in the region, it is cut into ever smaller boxes, too.
    The lower bound is the largest proved slope between two inputs, near the rows of `example` or,
    with a region, between two points of it.

    Args:
        model: Any module in eval mode.
        example: Inputs with batch dimension, [N, ...]: the more rows, the better the lower bound.
        norm: 1, 2 or inf, on inputs and outputs.
        region: Where the inputs lie (`Ball` or `Box`, in input units); None for everywhere.
        seconds: Time to spend after capture. What would not fit is left out, with a note; the first
            bounds and a step that has begun are finished.
        tolerance: Stop when upper / lower <= 1 + tolerance.
        free: Which entries of a row may move, as truth values of its shape or numbers of entries:
            the constant is about pairs of inputs that agree in the others, whatever these are (in
            a region: as in its centre).
        scale: Units of the entries, of a row's shape: distances are ||(x' - x) / scale||.
        seed: Of the random points and steps of the lower bound, which depends on the time as well.
        report: Called with every improvement.

    Returns:
        The bracket: `lower <= constant <= upper` in exact real arithmetic on the stored weights.

    Raises:
        Unsupported: When the model cannot be captured or an op has no known constant; all
            reasons at once, each with its module path; or its weights change meanwhile.
        InvalidInput: When an argument is out of range.

    >>> import torch, holdfast
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    >>> bracket = holdfast.lipschitz(model, torch.zeros(1, 2))
    >>> print(f"{bracket.lower:.6f} <= L <= {bracket.upper:.6f}: {bracket.outcome.name}")
    3.000000 <= L <= 3.000000: CLOSED
    """
    model, example = check_model(model), check_example(example)
    if isinstance(example, Tensor):
        example = fit_inputs(example, model)
    options = LipschitzOptions(norm, region, seconds, tolerance, Moves(free, scale), seed)
    with captured(model, example) as graph:
        return lipschitz_graph(graph, _points(graph, example), options, report)


def lipschitz_graph(
    graph: Graph, points: Tensor, options: LipschitzOptions, report: Report = silent
) -> Bracket:
    """Bracket the Lipschitz constant of a captured model; see `lipschitz`.

    Args:
        graph: The model.
        points: [N, ...]: rows of data to look around; with a region, they are not used.
        options: Norm, region, time and tolerance.
        report: Called with every improvement.

    Returns:
        The bracket, the best so far also when the user interrupts.

    Raises:
        Unsupported: When an op has no known constant.
        InvalidInput: When the region does not fit the input, or no row is finite.
    """
    units = options.moves.units(graph.perturbed_input.shape)
    if units is None:
        return Search(graph, options, report).run(points)
    return _in_units(graph, points, options, units, report)


def _in_units(
    graph: Graph, points: Tensor, options: LipschitzOptions, units: Tensor, report: Report
) -> Bracket:
    """Bracket the constant of u -> f(units u + offset); see `lipschitz_graph`."""
    where = options.region
    if isinstance(where, Ball):
        Search(graph, options)  # refuses a centre of another shape
        offset = where.center.double()
        around = Ball(torch.zeros_like(offset), where.radius, where.norm)
        options = dataclasses.replace(options, region=around)
    else:
        offset = torch.where(units > 0, 0.0, points[0].double().nan_to_num())
    # Everywhere, the offset stands for all values of what is kept. The rules for all inputs do not
    # depend on it, nor does it matter to a slope between two inputs; branch and bound depends.
    branches = where is not None or bool((units > 0).all())
    search = Search(in_units(graph, units, offset), options, report, branches)
    bracket = search.run(torch.where(units > 0, points.double() / units, 0.0))
    if bracket.witness is None:
        return bracket
    first, second = (units * end + offset for end in bracket.witness)
    return dataclasses.replace(bracket, witness=(first, second))


def _points(graph: Graph, example: Example) -> Tensor:
    """Return the rows of the one input that moves.

    Raises:
        Unsupported: When there are other inputs, which would have to be held fixed.
    """
    moving = graph.perturbed_input
    others = [node for node in graph.inputs if node is not moving]
    if others:
        why = "an input that is not moved"
        advice = "wrap the model so that it is a constant of the module"
        raise Unsupported("a global Lipschitz constant", [n.obstacle(why, advice) for n in others])
    return example if isinstance(example, Tensor) else example[graph.perturbed_input.name]
