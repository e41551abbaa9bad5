"""The verb: for every row, the nearest input that the model answers differently."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from holdfast.arguments import (
    check_classes,
    check_distance,
    check_inputs,
    check_labels,
    check_model,
    check_norm,
    check_number,
    check_seed,
    check_threshold,
    fit_inputs,
)
from holdfast.attacks.corners import search_corners
from holdfast.attacks.result import Attacks
from holdfast.attacks.rows import Rows
from holdfast.attacks.search import answers, search
from holdfast.brackets.lower.ascent import within
from holdfast.certificates.misleading import misleading, uneven, uneven_advice, warn_of
from holdfast.corners import nearest_first
from holdfast.errors import InvalidInput, Unsupported
from holdfast.gradients import with_gradients
from holdfast.graph.capture import captured, example_row
from holdfast.graph.forward import logits_in, run_model
from holdfast.graph.ir import Graph
from holdfast.graph.single import two_logits
from holdfast.moves import EVERYTHING, Entries, Groups, Moves, Units, recorded
from holdfast.types import Report, silent


def attack(  # noqa: PLR0913 - the signature is the contract's
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    norm: float = 2,
    epsilon: float | None = None,
    *,
    threshold: float = 0.0,
    free: Entries = None,
    scale: Units = None,
    onehot: Groups = (),
    seed: int = 0,
    report: Report = silent,
) -> Attacks:
    """Look, row by row, for the nearest input that the model does not give the label.

    Walks along the decision boundary (FAB: Croce and Hein, 2020) and ascents of the margin inside
    a ball (APGD: Croce and Hein, 2020), with restarts. Inputs may move anywhere: they are not
    clipped to a range, as a certified ball is not. What is found is an upper bound of the distance
    to the boundary; that nothing is found shows nothing.

    Args:
        model: A classifier in eval mode: [N, ...] to [N, classes], or to one logit, [N] or [N, 1].
        inputs: [N, ...], floating point; taken in the precision of the weights, with a warning
            where that rounds them.
        labels: [N] or [N, 1], class numbers.
        norm: Norm of the distance between inputs: 1, 2 or inf; or "l1", "l2", "linf".
        epsilon: Look for any adversarial within this distance, in input units, which is faster;
            also as text such as "2/255". None looks for the nearest ones.
        threshold: For a model of one logit: class 1 is where it is above this, class 0 below.
        free: Which entries of a row may move, as truth values of its shape or numbers of entries.
        scale: Units of the entries, of a row's shape: distances are ||(x' - x) / scale||.
        onehot: Groups of entries of the flattened row, as for `certify`: adversarials hold one 1
            among 0s in each.
        seed: Of the random starts.
        report: Called with the progress.

    Returns:
        One attack per row, in input order: each adversarial was run through the model, and its
        distance is measured between stored values. The same call gives the same result. Where the
        user interrupts, what was found until then, with `stopped`.

    Warns:
        HoldfastWarning: Where results would mislead, as for `certify`.

    Raises:
        Unsupported: When the model cannot be captured: each row's answer must be a fixed function
            of that row; or when its weights change meanwhile.
        InvalidInput: When an argument is not usable.

    >>> import torch, holdfast
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> inputs, labels = torch.tensor([[3.0, 1.0], [1.0, 3.0]]), torch.tensor([0, 0])
    >>> attacks = holdfast.attack(model, inputs, labels)
    >>> [f"{distance:.3f}" for distance in attacks.distance.tolist()]  # 2 / sqrt(2) to the boundary
    ['1.414', '0.000']
    >>> attacks.reason
    ('found', 'misclassified')
    """
    moves = Moves(free, scale, onehot)
    model = check_model(model)
    options = AttackOptions(norm, epsilon, threshold=threshold, moves=moves, seed=seed)
    with with_gradients():
        inputs = check_inputs(inputs)
        if not inputs.is_floating_point():
            wanted = (
                "floating-point inputs; without a distance between them, use holdfast.knowledge"
            )
            raise InvalidInput("inputs", f"values of type {inputs.dtype}", wanted)
        inputs, labels = fit_inputs(inputs, model), check_labels(labels, len(inputs))
        with captured(model, example_row(inputs)) as graph:
            found = attack_graph(graph, model, (inputs, labels), options, report)
            if found.stopped:
                warn_of(
                    [f"stopped: {found.reached} of {len(found)} rows were attacked, not all fully"]
                )
            warn_of(misleading(graph, (inputs, labels), options.threshold, moves))
            warn_of(uneven_advice(uneven(inputs, moves)))
            return found


@dataclass(frozen=True)
class AttackOptions:
    """How rows are attacked.

    Attributes:
        norm: 1, 2 or inf.
        epsilon: As for `attack`.
        seconds: Time for the search; a step that has begun is finished.
        threshold: As for `attack`.
        moves: What may move, in which units.
        seed: Of the random starts.

    Raises:
        InvalidInput: When one of them is something else.
    """

    norm: float = 2.0
    epsilon: float | None = None
    seconds: float = math.inf
    threshold: float = 0.0
    moves: Moves = EVERYTHING
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", check_norm(self.norm))
        if self.epsilon is not None:
            epsilon = check_distance("epsilon", self.epsilon, ", or None")
            object.__setattr__(self, "epsilon", epsilon)
        seconds = check_number("seconds", self.seconds, lambda s: s >= 0, "a time, at least 0")
        object.__setattr__(self, "seconds", seconds)
        object.__setattr__(self, "threshold", check_threshold(self.threshold))
        check_seed(self.seed)


def attack_graph(
    graph: Graph,
    model: nn.Module,
    rows: tuple[Tensor, Tensor],
    options: AttackOptions,
    report: Report = silent,
) -> Attacks:
    """Attack rows of a captured classifier; see `attack`.

    Args:
        graph: What `capture` made of the model.
        model: The model itself, which is what is attacked.
        rows: Inputs [N, ...], floating point, and labels [N].
        options: Norm, distance and time.
        report: Called with the progress.

    Returns:
        One attack per row.

    Raises:
        Unsupported: When the output is not one row of logits.
        InvalidInput: When rows or labels do not fit the model.
    """
    inputs, labels = rows
    output = graph[graph.output]
    if len(output.shape) > 1:
        why = f"an output of shape {output.shape} per row, wanted one row of logits"
        raise Unsupported("an attack", [output.obstacle(why)])
    if graph.perturbed_input.shape != inputs.shape[1:]:
        got = f"rows of shape {list(inputs.shape[1:])}"
        raise InvalidInput("inputs", got, f"{list(graph.perturbed_input.shape)}")
    if labels.is_floating_point():
        wanted = "class numbers (labels.long()); how far outputs move is bounded by certify"
        raise InvalidInput("labels", "targets (floating point), which have no other class", wanted)
    classes = max(2, math.prod(output.shape))
    labels = check_classes(labels, len(inputs), classes)
    finite = torch.isfinite(inputs.reshape(len(inputs), -1)).all(1)
    by_row = finite.reshape(-1, *[1] * (inputs.dim() - 1))
    # Rows that are not finite are run as zeros and reported apart.
    safe = torch.where(by_row, inputs, 0.0)
    reach = math.inf if options.epsilon is None else float(options.epsilon)

    def logits(x: Tensor) -> Tensor:
        return two_logits(logits_in(run_model(model, x)), options.threshold)

    moves = options.moves
    units, numeric = (of(inputs.shape[1:]) for of in (moves.units, moves.numeric_units))
    moves.check_rows(inputs)
    flat = None if numeric is None else numeric.flatten()
    found = Rows.begin(logits, (safe, labels), options.norm, reach, flat)
    spent, stopped = within(options.seconds), False
    if flat is None or bool(flat.any()):
        clean, tried, stopped = search(found, spent, report, options.seed)
    else:  # categories alone
        clean, tried = answers(found), torch.full_like(finite, not spent())
    if moves.groups and units is not None and not stopped:
        every = units.flatten()
        walk = partial(nearest_first, groups=moves.groups, units=every, norm=options.norm)
        right = finite & (clean == labels)
        found, stopped = search_corners(found, right, walk, every, spent, report)
    clean[~finite] = -1
    reason = tuple(_reasons(found, clean, tried))
    distance = found.distance.clone()
    distance[clean != labels] = 0.0
    distance[clean < 0] = math.inf
    won = torch.tensor([entry == "found" for entry in reason])
    adversarial = found.placed(found.adversarial)
    return Attacks(
        distance=distance,
        adversarial=torch.where(won.reshape(by_row.shape), adversarial, inputs),
        predicted=torch.where(won, found.predicted, clean),
        labels=labels,
        reason=reason,
        norm=options.norm,
        epsilon=reach,
        units=recorded(units),
        onehot=moves.groups,
        fingerprint=graph.fingerprint,
        seed=options.seed,
        stopped=stopped,
    )


def _reasons(found: Rows, clean: Tensor, tried: Tensor) -> list[str]:
    """Say for every row how its attack ended."""
    reasons = []
    known = torch.isfinite(found.distance)
    columns = (clean, found.labels, known, tried)
    each = zip(*(column.tolist() for column in columns), strict=True)
    for answer, label, is_known, is_tried in each:
        if answer < 0:
            reasons.append("not_finite")
        elif answer != label:
            reasons.append("misclassified")
        elif is_known:
            reasons.append("found")
        else:
            reasons.append("none_found" if is_tried else "not_attacked")
    return reasons
