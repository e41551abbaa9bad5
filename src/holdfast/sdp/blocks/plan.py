"""How a part of a graph lies on a lattice, before anything is computed.

From its output back every value gets the pixels that it has for each place; a part without
convolutions has one place, and every entry is by itself.
"""

import math
from dataclasses import dataclass

from holdfast.errors import Unsupported
from holdfast.graph.ir import Graph, Node
from holdfast.ops import Kind
from holdfast.sdp.blocks.lattice import Axis, Factor, conv_axes

NAME = "LipSDP on blocks"


@dataclass(frozen=True)
class Plan:
    """The lattice of a part of a graph, known before anything is computed.

    Attributes:
        places: Of the lattice, by axis.
        factors: Pixels for each place, by node; None behind a pooling of the whole image.
        inputs: Number of inputs of the form.
        units: Number of its units.
        frequencies: Number of frequencies.
    """

    places: tuple[int, ...]
    factors: dict[str, Factor | None]
    inputs: int
    units: int
    frequencies: int

    @property
    def size(self) -> int:
        """Order of the matrices."""
        return self.inputs + self.units


def plan(part: Graph) -> Plan:
    """Lay a part of a graph out, on a lattice where it has convolutions.

    Returns:
        The plan.

    Raises:
        Unsupported: When an operation has no rule.
    """
    try:
        return _lattice_plan(part)
    except Unsupported:
        return _plain_plan(part)


def _plain_plan(part: Graph) -> Plan:
    """Lay out a part in which every entry is by itself.

    Returns:
        The plan.

    Raises:
        Unsupported: When an operation has no rule.
    """
    units = 0
    for node in part.nodes:
        if not node.perturbed or node.op == "input":
            continue
        entries = math.prod(node.shape)
        same = all(math.prod(part[name].shape) == entries for name in node.inputs)
        keeps = node.kind in (Kind.SUM, Kind.SCALAR) or (
            node.kind is Kind.AFFINE and node.facts.by_entry
        )
        # A linear layer on every token of several is no matrix of the whole row.
        whole = node.op == "linear" and math.prod(part[node.inputs[0]].shape[:-1]) == 1
        if not (whole or (same and (keeps or node.op == "reshape"))):
            raise Unsupported(NAME, [node.obstacle("no rule on a lattice, or without one")])
        units += entries if node.kind is Kind.SCALAR else 0
    factors: dict[str, Factor | None] = dict.fromkeys((node.name for node in part.nodes), ())
    return Plan((), factors, math.prod(part.perturbed_input.shape), units, 1)


def _lattice_plan(part: Graph) -> Plan:
    """Lay a part of a graph out on a lattice.

    Returns:
        The plan.

    Raises:
        Unsupported: When it is no convolutional net.
    """
    factors = _factors(part)
    entry, rank = part.perturbed_input, len(part.perturbed_input.shape) - 1
    if factors.get(entry.name) is None or rank < 1:
        raise Unsupported(NAME, [entry.obstacle("is no image")])
    rooms = [
        [-(-n // f) for n, f in zip(node.shape[1:], factors[node.name] or (), strict=True)]
        for node in part.nodes
        if factors.get(node.name) is not None
    ]
    for node in part.nodes:
        if node.op == "conv" and node.perturbed:
            before, after = part[node.inputs[0]].shape[1:], node.shape[1:]
            sizes = zip(axes_of(node, factors), before, after, strict=True)
            rooms.append([axis.room(n, m) for axis, n, m in sizes])
    places = tuple(max(column) for column in zip(*rooms, strict=True))
    units = sum(
        node.shape[0] * math.prod(factors[node.name] or ())
        for node in part.nodes
        if node.kind is Kind.SCALAR and node.perturbed
    )
    inputs = entry.shape[0] * math.prod(factors[entry.name] or ())
    count = math.prod(places[:-1]) * (places[-1] // 2 + 1)
    return Plan(places, factors, inputs, units, count)


def axes_of(node: Node, factors: dict[str, Factor | None]) -> list[Axis]:
    """Return what a convolution of a part reads along each axis.

    Raises:
        Unsupported: Behind a pooling.
    """
    after = factors[node.name]
    if after is None:
        raise Unsupported(NAME, [node.obstacle("a convolution behind a pooling")])
    return conv_axes(node.params["weight"], node.params["geometry"], after)


def _factors(part: Graph) -> dict[str, Factor | None]:
    """Return the pixels for each place of the coarsest lattice.

    Raises:
        Unsupported: Where an operation is none of those that keep the lattice.
    """
    try:
        return _factors_from(part, (1,) * (len(part.perturbed_input.shape) - 1))
    except Unsupported:  # unless it ends behind a pooling
        return _factors_from(part, None)


def _factors_from(part: Graph, last: Factor | None) -> dict[str, Factor | None]:
    """Return the same for the given pixels of the output, from which the nodes are read back."""
    found: dict[str, Factor | None] = {part.output: last}
    for node in reversed(part.nodes):
        if found.get(node.name) is not None and len(node.shape) != len(found[node.name] or ()) + 1:
            raise Unsupported(NAME, [node.obstacle("is no image")])
        if node.name not in found or node.op == "input" or not node.perturbed:
            continue
        for name in node.inputs:
            source = part[name]
            wanted = _before(node, source, found[node.name])
            if source.perturbed and found.setdefault(name, wanted) != wanted:
                raise Unsupported(NAME, [node.obstacle("images of two sizes")])
    return found


def _before(node: Node, source: Node, after: Factor | None) -> Factor | None:
    """Return the pixels of what a node reads for each place, from those of its result."""
    rank = len(source.shape) - 1
    if node.op == "conv" and after is not None:
        geometry = node.params["geometry"]
        if geometry.mode != "constant":
            raise Unsupported(NAME, [node.obstacle("a padding other than zeros")])
        return tuple(f * stride for f, stride in zip(after, geometry.stride, strict=True))
    if after is None and rank >= 1 and _pools_all(node, source):
        return (1,) * rank
    if node.op == "linear" and after is None:
        return None
    keeps = node.kind in (Kind.SUM, Kind.SCALAR) or (
        node.kind is Kind.AFFINE and node.facts.by_entry
    )
    if node.op == "reshape" and after is None and math.prod(source.shape[1:]) == 1:
        return None  # nothing else than one number for each channel, in the same order
    if not keeps or source.shape != node.shape:
        raise Unsupported(NAME, [node.obstacle("no rule on a lattice")])
    if after is None and node.kind is Kind.SCALAR:
        raise Unsupported(NAME, [node.obstacle("an activation behind a pooling")])
    return after


def _pools_all(node: Node, source: Node) -> bool:
    """Return whether a node takes the mean of every channel's whole image."""
    if node.op == "adaptive_avg_pool":
        return math.prod(node.params["size"]) == 1
    every = tuple(range(2, len(source.shape) + 1))
    if node.op == "mean":
        return tuple(sorted(node.params["dims"])) == every
    return False
