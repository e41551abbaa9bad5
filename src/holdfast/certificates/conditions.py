"""Does a Lipschitz certificate make sense for this model and these inputs?"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.arguments import (
    check_inputs,
    check_labels,
    check_model,
    check_norm,
    check_seed,
    check_threshold,
    fit_inputs,
    shown,
)
from holdfast.brackets.lipschitz import LipschitzOptions, lipschitz_graph
from holdfast.certificates.certificate import Certificates
from holdfast.certificates.certify import certify_graph
from holdfast.certificates.misleading import misleading, uneven, uneven_advice, warn_of
from holdfast.certificates.options import CertifyOptions
from holdfast.certificates.resolution import in_their_units, neighbour_distance, quantisation_step
from holdfast.errors import InvalidInput, Unsupported
from holdfast.gradients import with_gradients
from holdfast.graph.capture import captured, example_row
from holdfast.graph.ir import Graph
from holdfast.moves import EVERYTHING, Entries, Moves, Units
from holdfast.results import ChartedResult
from holdfast.types import Report, norm_name, silent


@dataclass(frozen=True, repr=False)
class Conditions(ChartedResult):
    """Whether a certificate about distances between inputs is worth asking for.

    Attributes:
        metric: `natural`: the inputs are floating-point numbers, and the norm measures them;
            `none`: they are token ids, between which no norm means anything; `declared`: the user
            named the distance.
        bounded: `meaningful`: half of the rows are certified to a distance that matters for the
            data; `vacuous`: they are not, though something is proved: the median radius is below a
            tenth of the half distance between neighbours, or below the quantisation step where
            that is all there is to compare with; `unbounded`: nothing finite is proved. For
            targets: whether outputs, within that half distance, are proved to stay within the
            spread of the targets.
        ratio: Upper bound of the Lipschitz constant divided by the lower one; inf where there is
            no upper bound, None without a metric.
        median_radius: Lower median of the certified radii over all rows, rows with radius 0
            included, in input units; None where nothing can be certified, and for targets.
        resolution: Half the distance from a row to its nearest row with another label, the median
            over the rows; the quantisation step where all rows have one label; None where neither
            is known. In input units.
        quantisation: Step of the grid that all values lie on; None where they lie on none.
        norm: 1, 2 or inf.
        advice: What to do, in one sentence; and another where the columns of a table are spread
            more than a hundred times differently.
    """

    metric: str
    bounded: str
    ratio: float | None
    median_radius: float | None
    resolution: float | None
    quantisation: float | None
    norm: float
    advice: str


def conditions(  # noqa: PLR0913 - the signature is the contract's
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    labels: Tensor,
    norm: float = 2,
    metric: str | None = None,
    *,
    threshold: float = 0.0,
    free: Entries = None,
    scale: Units = None,
    seconds: float = 5.0,
    seed: int = 0,
    report: Report = silent,
) -> Conditions:
    """Say whether Lipschitz certificates make sense for a model and its inputs.

    A certificate needs a distance that means something, a finite constant, and radii that are not
    small beside the data: they are held against half the distance between neighbours of different
    classes.

    Args:
        model: A classifier in eval mode: [N, ...] to [N, classes], or to one logit, [N] or [N, 1].
        inputs: [N, ...]; integers, or a mapping without a floating-point tensor, are token ids.
        labels: [N], class numbers; or targets, [N] or [N, outputs], in floating point.
        norm: Norm of the distance between inputs: 1, 2 or inf.
        metric: Name of the distance that you vouch for, where the numbers alone do not tell, as
            for embeddings; it is repeated in the advice.
        threshold: For a model of one logit: class 1 is where it is above this, class 0 below.
        free: Which entries of a row may move, as truth values of its shape or numbers of entries.
        scale: Units of the entries, of a row's shape: distances are ||(x' - x) / scale||.
        seconds: Time for the bracket of the constant.
        seed: Of the random points and steps of that bracket.
        report: Called with the progress.

    Returns:
        The conditions. It takes a bracket of the constant and the certificates of all rows.

    Warns:
        HoldfastWarning: Where results would mislead, as for `certify`; what is odd about columns
            is part of the advice.

    Raises:
        Unsupported: When the model cannot be captured, or its weights change meanwhile.
        InvalidInput: When an argument is not usable.

    >>> import torch, holdfast
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> inputs, labels = torch.tensor([[3.0, 1.0], [1.0, 3.0]]), torch.tensor([0, 1])
    >>> verdict = holdfast.conditions(model, inputs, labels)
    >>> verdict.metric, verdict.bounded
    ('natural', 'meaningful')
    >>> f"{verdict.median_radius:.3f} of {verdict.resolution:.3f}"
    '1.414 of 1.414'
    """
    model, moves = check_model(model), Moves(free, scale)
    options = ConditionsOptions(norm, metric, seconds, threshold, moves, seed=seed)
    with with_gradients():
        rows = _numbers(inputs)
        if rows is None:
            return _without_metric(options.norm)
        rows, labels = fit_inputs(rows, model), check_labels(labels, len(rows))
        with captured(model, example_row(rows)) as graph:
            found = conditions_graph(graph, rows, labels, options, report)
            warn_of(misleading(graph, (rows, labels), options.threshold, moves))
            return found


@dataclass(frozen=True)
class ConditionsOptions:
    """What conditions are about.

    Attributes:
        norm: 1, 2 or inf.
        metric: Name of the distance that the user vouches for; None for the norm itself.
        seconds: Time for the bracket of the constant.
        threshold: As for `conditions`.
        moves: What may move, in which units.
        columns: Whether to advise about columns that are spread differently.
        seed: As for `conditions`.

    Raises:
        InvalidInput: When one of them is something else.
        Unsupported: When there are one-hot groups.
    """

    norm: float = 2.0
    metric: str | None = None
    seconds: float = 5.0
    threshold: float = 0.0
    moves: Moves = EVERYTHING
    columns: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", check_threshold(self.threshold))
        check_seed(self.seed)
        object.__setattr__(self, "norm", check_norm(self.norm))
        self.moves.check_no_groups("conditions")
        if self.metric is not None and not isinstance(self.metric, str):
            raise InvalidInput("metric", shown(self.metric), "the name of a distance, or None")


def conditions_graph(
    graph: Graph,
    inputs: Tensor,
    labels: Tensor,
    options: ConditionsOptions,
    report: Report = silent,
) -> Conditions:
    """Certify and bracket a captured model, and say what that is worth; see `conditions`.

    Args:
        graph: The model.
        inputs: [N, ...], floating point.
        labels: [N].
        options: Norm, metric and time.
        report: Called with the progress.

    Returns:
        The conditions.

    Raises:
        InvalidInput: When labels do not fit, or no row is finite.
        KeyboardInterrupt: When the user interrupts.
    """
    norm = options.norm
    try:
        how = CertifyOptions(norm, threshold=options.threshold, moves=options.moves)
        certificates = certify_graph(graph, inputs, labels, how, report)
        if certificates.reached < len(certificates):
            raise KeyboardInterrupt  # a part of the rows does not tell
    except Unsupported:
        certificates = None
    try:
        asked = {"seconds": options.seconds, "moves": options.moves, "seed": options.seed}
        bracket = LipschitzOptions(norm, **asked)
        ratio = lipschitz_graph(graph, inputs, bracket, report).ratio
    except Unsupported:
        ratio = math.inf
    return conditions_of((inputs, labels), options, certificates, ratio)


def conditions_of(
    rows: tuple[Tensor, Tensor],
    options: ConditionsOptions,
    certificates: Certificates | None,
    ratio: float,
) -> Conditions:
    """Return the conditions of rows that were certified; see `conditions`.

    Args:
        rows: Inputs [N, ...], floating point, and labels [N].
        options: Norm and metric.
        certificates: Of these rows; None where the model allows none.
        ratio: Upper bound of the constant divided by the lower one.
    """
    norm, metric = options.norm, options.metric
    inputs, labels = rows
    finite = torch.isfinite(inputs.flatten(1)).all(1)
    inputs, labels = inputs[finite], labels[finite]
    units = options.moves.units(inputs.shape[1:])
    step = quantisation_step(in_their_units(inputs, units))
    between = neighbour_distance(inputs, labels, norm, units) if len(inputs) else None
    resolution = step if between is None else between
    if certificates is not None and not certificates.has_classes:
        radius, (bounded, advice) = None, _of_targets(certificates, resolution)
    else:
        radius = None if certificates is None else float(certificates.radius.median())
        bounded = _bounded(radius, ratio, step, between)
        advice = _advice(bounded, ratio, metric or norm_name(norm))
    more = uneven_advice(uneven(inputs, options.moves)) if options.columns else []
    return Conditions(
        metric="natural" if metric is None else "declared",
        bounded=bounded,
        ratio=ratio,
        median_radius=radius,
        resolution=resolution,
        quantisation=step,
        norm=norm,
        advice=" ".join([advice, *more]),
    )


def _of_targets(certificates: Certificates, distance: float | None) -> tuple[str, str]:
    """Hold the change that is allowed between neighbours against the spread of the targets.

    Args:
        certificates: Of rows with targets.
        distance: Half the distance between neighbours, or what else resolves the data.

    Returns:
        How it is bounded, and advice; see `Conditions`.
    """
    if not distance:
        return "vacuous", "Give rows that differ: without them no distance is one that matters."
    change = float(certificates.output_change(distance).median())
    spread = certificates.labels.std(0, correction=0)
    allowed = float(torch.linalg.vector_norm(spread, certificates.norm))
    if not math.isfinite(change):
        return "unbounded", "Use knowledge continuity: no bound of the outputs' change is proved."
    if change > allowed:
        return "vacuous", (
            "Train for a smaller constant, or use knowledge continuity: halfway to a neighbour "
            f"outputs may move by {change:.3g} for all that is proved, and targets are spread by "
            f"{allowed:.3g}."
        )
    return "meaningful", (
        f"Use bounds of change: halfway to a neighbour no output moves by more than {change:.3g}, "
        f"in the median of the rows, and targets are spread by {allowed:.3g}."
    )


def _numbers(inputs: Any) -> Tensor | None:
    """Return inputs that a norm can measure; None for token ids.

    Raises:
        InvalidInput: When they are neither.
    """
    if _whole(inputs):
        return None
    return check_inputs(inputs)


def _whole(inputs: object) -> bool:
    """Return whether inputs, or all tensors of a mapping, are whole numbers other than bytes."""
    parts = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
    with torch._C.DisableTorchFunctionSubclass():  # a subclass may refuse to be asked
        return bool(parts) and all(
            isinstance(part, Tensor)
            and not part.is_floating_point()
            and part.dtype != torch.uint8  # pixels that nobody scaled
            for part in parts
        )


def _without_metric(norm: float) -> Conditions:
    advice = "Use knowledge continuity: there is no distance between token ids to certify."
    return Conditions("none", "unbounded", None, None, None, None, norm, advice)


def _bounded(radius: float | None, ratio: float, step: float | None, between: float | None) -> str:
    """Hold the median radius against what the data can resolve."""
    if radius is None or (radius == 0 and not math.isfinite(ratio)):
        return "unbounded"
    # A radius below a tenth of the half distance between neighbours says next to nothing: even
    # balls ten times as wide would leave the rows apart.
    enough = step or 0.0 if between is None else 0.1 * between
    return "meaningful" if radius > 0 and radius >= enough else "vacuous"


def _advice(bounded: str, ratio: float, distance: str) -> str:
    """Return what to do, in one sentence."""
    if bounded == "meaningful":
        return f"Use Lipschitz certificates: their {distance} radii are not small beside the data."
    if bounded == "unbounded":
        return (
            "Use knowledge continuity, or bounds on a ball around each input: no finite "
            f"constant is proved in {distance} distance."
        )
    if ratio > 2.0:  # better bounds might double the radii
        return (
            "Train for a smaller constant, or use knowledge continuity: the bounds of the "
            f"constant in {distance} distance are a factor of {ratio:.3g} apart, and the radii "
            "are too small to matter."
        )
    return (
        "Train for a smaller constant, or use knowledge continuity: the constant in "
        f"{distance} distance is known well and too large for radii that matter."
    )
