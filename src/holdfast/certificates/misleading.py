"""What makes a result mislead though every number of it is right, said in one sentence each."""

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from holdfast.certificates.resolution import in_their_units
from holdfast.errors import HoldfastWarning
from holdfast.graph.ir import Graph, Node
from holdfast.graph.single import two_logits
from holdfast.graph.walk import run
from holdfast.moves import EVERYTHING, Moves
from holdfast.ops import Kind


def misleading(
    graph: Graph,
    rows: tuple[Tensor, Tensor],
    threshold: float = 0.0,
    moves: Moves = EVERYTHING,
    name: str = "model",
    scaled: bool = False,
) -> list[str]:
    """Return what a user should know before trusting radii, distances and shares of rows.

    Columns in units that differ are not among it: see `uneven`.

    Args:
        graph: The captured model, with one floating-point input.
        rows: Inputs [N, ...], floating point, and labels [N], class numbers or targets.
        threshold: For a model of one logit: class 1 is where it is above this.
        moves: The units of the entries.
        name: What to call the model.
        scaled: Whether the user said what values of a file are divided by.

    Returns:
        Sentences that say what is odd and how to go on; most often none.
    """
    inputs, labels = rows
    found = [_pixels(graph, inputs)] if moves.scale is None and not scaled else []
    if not labels.is_floating_point():
        end = _probabilities(graph, threshold, name)
        # Outputs on one side of the threshold explain that all answers are one class.
        found += [end or _one_answer(graph, rows, threshold, name), _one_label(labels)]
    return [sentence for sentence in found if sentence]


def warn_of(sentences: Iterable[str], stacklevel: int = 3) -> None:
    """Say sentences as warnings of the line that called the verb, as `warnings.warn` counts."""
    for sentence in sentences:
        warnings.warn(sentence, HoldfastWarning, stacklevel=stacklevel)


def few_rows(count: int) -> list[str]:
    """Return a sentence that shares of rows carry little, where there are few.

    Args:
        count: Number of rows.

    Returns:
        One sentence, or none.

    >>> few_rows(20)
    ['data: 20 rows are few, a single one is 5% of every share: give 30 or more']
    """
    # Of 30 rows a 95 % interval of a share is still up to 0.37 wide.
    if count >= 30:
        return []
    each = f"{100 / count:.2g}%" if count > 1 else "all"
    rows = f"{count} rows are" if count > 1 else "1 row is"
    return [f"data: {rows} few, a single one is {each} of every share: give 30 or more"]


def uneven(inputs: Tensor, moves: Moves) -> float | None:
    """Return by which factor the columns of a table are spread differently, where it is large.

    Args:
        inputs: [N, ...], floating point.
        moves: The units of the columns.

    Returns:
        The largest standard deviation over the smallest; None where it is at most 100, inputs are
        no table, rows are too few to tell, or the user gave units. Columns most of whose rows are
        alike are left out, as the pixels at the edge of a picture: their unit is not the reason.
    """
    # With less than four rows a small spread comes by chance, in one of many columns.
    if inputs.dim() != 2 or moves.scale is not None or len(inputs) < 4:
        return None
    columns = in_their_units(inputs, moves.numeric_units(inputs.shape[1:])).double()
    columns = columns[torch.isfinite(columns).all(1)].sort(0).values
    if not columns.numel():
        return None
    quarter = len(columns) // 4
    varied = columns[quarter] < columns[len(columns) - 1 - quarter]
    spread = columns.std(0, correction=0)[varied]
    if not len(spread) or float(spread.max()) <= 100 * float(spread.min()):
        return None
    return float(spread.max() / spread.min())


def uneven_advice(factor: float | None) -> list[str]:
    """Return a sentence that columns are spread differently, where `uneven` found it.

    Args:
        factor: What `uneven` returned.

    Returns:
        One sentence, or none.

    >>> uneven_advice(1234.5)[0]
    'Columns are spread by up to a factor of 1,230: give each its unit with `scale`.'
    """
    if factor is None:
        return []
    spread = f"{float(f'{factor:.3g}'):,.0f}"
    return [f"Columns are spread by up to a factor of {spread}: give each its unit with `scale`."]


def _probabilities(graph: Graph, threshold: float, name: str) -> str | None:
    """Say that a classifier answers probabilities, where margins are taken to be of logits."""
    node = graph[graph.output]
    while node.op in {"reshape", "permute", "select", "slice", "index_select"}:
        node = graph[node.inputs[0]]
    if node.op not in {"softmax", "sigmoid"}:
        return None
    if graph[graph.output].shape not in ((), (1,)):
        return (
            f"{name}: it ends in {node.op}: margins are of probabilities, so that radii come out "
            "smaller and attacks find less; give the model without it, with logits"
        )
    if 0 < threshold < 1:
        return None  # the user knows
    return (
        f"{name}: it ends in {node.op}: all probabilities are on one side of the threshold "
        f"{threshold:g}; say threshold=0.5, or give the model without it"
    )


def _pixels(graph: Graph, inputs: Tensor) -> str | None:
    """Say that rows look like pixels that nobody scaled, unless the model begins with that."""
    # Whole numbers are common in tables; 64 and more of them in a row are an 8x8 picture.
    entries = inputs[0].numel()
    if entries < 64 or not 128 <= float(inputs.max()) <= 255 or float(inputs.min()) < 0:
        return None
    if not bool((inputs == inputs.round()).all()) or _normalises(graph):
        return None
    return (
        f"inputs: whole numbers up to {float(inputs.max()):g} look like pixels: divide them by 255 "
        "if the model was trained on values from 0 to 1 (?scale=255 of a file)"
    )


def _normalises(graph: Graph) -> bool:
    """Return whether the first thing that happens to inputs is that they are put to scale."""
    reached = {graph.perturbed_input.name}
    scales = {"scale", "scale_channels", "divide", "batch_norm", "layer_norm", "group_norm"}

    def passes(node: Node) -> bool:
        return node.kind is Kind.WIRING or node.op == "shift"

    users = []
    for node in graph.nodes:
        if reached & {*node.inputs}:
            (reached.add if passes(node) else users.append)(node.name)
    return bool(users) and all(graph[each].op in scales for each in users)


def _one_label(labels: Tensor) -> str | None:
    """Say that all labels are one class, where rows are too many for that to be meant."""
    if len(labels) < 30 or len(labels.unique()) > 1:
        return None
    return (
        f"labels: all {len(labels)} are class {int(labels[0])}: shares are of that class alone; "
        "give rows of every class, in mixed order"
    )


def _one_answer(
    graph: Graph, rows: tuple[Tensor, Tensor], threshold: float, name: str
) -> str | None:
    """Say that a model answers one class to rows of several."""
    inputs, labels = rows
    finite = torch.isfinite(inputs.flatten(1)).all(1)
    inputs, labels = inputs[finite], labels[finite]
    if len(labels) < 30 or len(labels.unique()) < 2 or len(graph[graph.output].shape) > 1:
        return None
    with torch.no_grad():
        parts = [two_logits(run(graph, part), threshold) for part in inputs.split(256)]
    answers = torch.cat(parts).argmax(1).unique()
    if len(answers) > 1:
        return None
    return (
        f"{name}: it answers class {int(answers)} to all {len(labels)} rows, whose labels differ: "
        "see that it is trained, and that rows are in the units of its training"
    )
