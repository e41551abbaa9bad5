"""From certificates to a proof that fits into a file, and the radii that it proves."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from flint import arb, ctx
from torch import Tensor

from holdfast.certificates.change import Changes
from holdfast.certificates.proofs.lowering import cut_points, lower
from holdfast.certificates.proofs.witness import check_entries, check_sizes, choose_cuts, witnesses
from holdfast.errors import Unsupported
from holdfast.graph.ir import Graph
from holdfast.rounding import coarse_down
from holdfast_check.files import Rejected
from holdfast_check.files import Tensor as Array
from holdfast_check.network import ONE, ZERO, Step, logits, read_graph
from holdfast_check.proof import squared_rates

_KINDS = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}


@dataclass(frozen=True, eq=False)
class Proof:
    """What a file needs beside the certificates.

    Attributes:
        ops: The operations.
        cuts: The values at which the constants are multiplied.
        tensors: Arrays that the operations name.
        arrays: Rows and witnesses.
        radius: Per row: what is proved, at most what was certified.
    """

    ops: list[dict[str, Any]]
    cuts: list[int]
    tensors: dict[str, Tensor]
    arrays: dict[str, Tensor]
    radius: list[float]


def prove(known: Changes, certified: Tensor) -> Proof:
    """Return a proof of as much of the certified radii as the checker can follow.

    Args:
        known: The classifier, its rows and their classes.
        certified: [N], radii of the rows; inf where every input has the row's class.

    Raises:
        Unsupported: When the network holds what the checker does not know, or is too large for it.
    """
    try:
        with ctx.workprec(128):
            return _proof(known, certified.tolist())
    except Rejected as why:
        raise Unsupported(f"a proof in a file ({why})", []) from why


def plan(graph: Graph) -> tuple[list[dict[str, Any]], dict[str, Tensor], list[int]]:
    """Return operations, arrays and cuts of a proof, without proving anything yet.

    Raises:
        Unsupported: When the network holds what the checker does not know, or is too large for it.
    """
    ops, tensors, sizes = lower(graph)
    slopes = (ZERO, ONE, arb)  # of the scalar functions: only whether there are some matters here
    steps = [Step((), sizes[0])]
    for op, size in zip(ops, sizes[1:], strict=True):
        affine = op["op"] in ("linear", "batch_norm", "diagonal", "quotient", "take", "add")
        steps.append(Step(op["of"], size, scalar=None if affine else slopes))
        if op["op"] == "linear":
            name = op["arrays"][0]
            check_entries(size * tensors[name][0].numel(), name)
    cuts = choose_cuts(steps, cut_points(ops))
    check_sizes(steps, cuts)
    return ops, tensors, cuts


def _proof(known: Changes, certified: list[float]) -> Proof:
    inputs, (ops, tensors, cuts) = known.inputs, plan(known.graph)
    steps = read_graph(
        [op | {"slope": float.fromhex(op["slope"])} for op in ops],
        math.prod(inputs.shape[1:]),
        {name: as_array(tensor) for name, tensor in tensors.items()},
    )
    found = witnesses(steps, cuts, known.norm)
    arrays = {"inputs": inputs.contiguous()} | {
        name: torch.from_numpy(values) for name, values in found
    }
    rates = squared_rates(
        steps, cuts, known.norm, {name: as_array(arrays[name]) for name in arrays}
    )
    radius = _radii(steps, rates, known, certified)
    return Proof(ops, cuts, tensors, arrays, radius)


def as_array(tensor: Tensor) -> Array:
    """Return a tensor as the checker sees it."""
    if tensor.dtype not in _KINDS:
        raise Unsupported(f"a proof in a file of numbers of type {tensor.dtype}", [])
    data = tensor.detach().cpu().contiguous().numpy().tobytes()
    return Array(_KINDS[tensor.dtype], tuple(tensor.shape), data)


def _radii(
    steps: list[Step],
    rates: dict[tuple[int, int], Any],
    known: Changes,
    certified: list[float],
) -> list[float]:
    """Return per row what margins and rates prove, rounded down, at most what was certified."""
    radius = [0.0] * len(certified)
    rows = [k for k, claimed in enumerate(certified) if claimed > 0]
    labels = known.labels.tolist()
    roots = {pair: arb(square).sqrt() for pair, square in rates.items()}
    for start in range(0, len(rows), 64):  # so many share a pass over the weights
        some = rows[start : start + 64]
        outputs = logits(steps, [as_array(known.inputs[k]).numbers() for k in some])
        for k, output in zip(some, outputs, strict=True):
            radius[k] = min(certified[k], _radius(output, labels[k], roots))
    return radius


def _radius(output: list[arb], label: int, roots: dict[tuple[int, int], arb]) -> float:
    smallest = math.nextafter(math.inf, 0.0)
    for other in range(len(output)):
        if other == label:
            continue
        root = roots[max(label, other), min(label, other)]
        gap = output[label] - output[other]
        if not gap > 0:
            return 0.0
        if root > 0:
            ratio = float((gap / root).lower())
            smallest = min(smallest, math.nextafter(ratio, 0.0))
    return float(coarse_down(torch.tensor(smallest, dtype=torch.float64)))
