"""What is known at the centre of a ball, for the centred bound: see `holdfast.bounds.centred`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from holdfast.batches import flat_rows
from holdfast.bounds.curvature import Blocks, Curvature, Linearised, linearised, rounding_of
from holdfast.graph.ir import Graph, Node
from holdfast.graph.running import ONE_STEP, Approximate
from holdfast.norms.matrix import near_spectral_upper, spectral_upper, spectral_uppers
from holdfast.norms.node import OperatorNorms
from holdfast.rounding import (
    UNIT,
    add_up,
    frobenius_up,
    gamma,
    lengths_up,
    mul_up,
    sqrt_up,
)


@dataclass(frozen=True)
class Sizes:
    """Norms of the computed Jacobian of a node.

    Attributes:
        whole: Upper bound of its l2 norm.
        frobenius: Of its Frobenius norm.
        rounding: Of the norm of what a step to it rounds.
    """

    whole: float
    frobenius: float
    rounding: float


@dataclass
class Source:
    """An operation with curvature, and what surrounds it.

    Attributes:
        curvature: Of the operation.
        inputs: Names of its inputs.
        radii: Per input, norms of the blocks of the Jacobian whose values move; 0 for constants.
        parts: Per input, norms of those that D maps.
        fixed: Per input, how far the blocks of a constant, of both kinds, are from computed ones.
        profile: Weights of the blocks of D.
        tail: Norm of T, times the weights of the operation.
        shaped: Norm of T, times these and the profile.
    """

    curvature: Curvature
    inputs: tuple[str, ...]
    radii: list[Tensor]
    parts: list[Tensor]
    fixed: list[tuple[Tensor, Tensor]]
    profile: Tensor = field(default_factory=lambda: torch.ones(()))
    tail: float = math.inf
    shaped: float = math.inf


@dataclass(frozen=True)
class Tails:
    """What the matrices T from one node back to another say.

    Attributes:
        entry: T at the node in front, [rows, entries].
        norms: Upper bounds of the norms of T, by node.
        rounding: Upper bounds of the norms of rho, by node.
    """

    entry: Tensor
    norms: Mapping[str, float]
    rounding: Mapping[str, float]


@dataclass(frozen=True)
class Cut:
    """A node through which every path leads.

    Attributes:
        name: The node.
        since: The nodes behind the cut before it, up to this one.
        tails: From the cut back to the one before it.
        across: Upper bounds of the norms of products of T from the end of each earlier stretch
            to here, this one's last.
    """

    name: str
    since: tuple[str, ...]
    tails: Tails
    across: tuple[float, ...]


class Centre:
    """A graph at one point: Jacobians from the input and to the output, cuts, and their norms.

    Args:
        graph: Captured model, or a part of one.
        center: Shape of one input.
        work: Most products of numbers that one norm, or one set of products from cut to cut, may
            take; cheaper bounds stand in for others.

    Attributes:
        covers: Whether every operation has a known deviation; where not, the rest is missing.
        entry: Name of the input.
        order: The nodes between input and output, in order.
        steps: By node, its linear map.
        off: By node, how far its computed value may be from the exact one of those before.
        sizes: By node, norms of its Jacobian.
        sources: The nodes with curvature.
        cuts: Nodes through which every path leads, in order.
        final: From the output back to the input.
        first: Upper bound of the norm of the Jacobian of stored numbers.
    """

    @torch.no_grad()
    def __init__(self, graph: Graph, center: Tensor, work: float = 1.3e10) -> None:
        self._graph, self._work = graph.double().pruned(), work
        self._norms = OperatorNorms(2.0)
        self.entry = self._graph.perturbed_input.name
        self.order = [n for n in self._needed() if n.perturbed and n.name != self.entry]
        self.steps: dict[str, Linearised] = {}
        self.off: dict[str, float] = {}
        values = self._values(center.detach().double()[None])
        self.covers = values is not None
        if values is None:
            return
        self.sizes: dict[str, Sizes] = {}
        self.sources: dict[str, Source] = {}
        self._push(values)
        self.cuts = self._between_cuts()
        self._shape()
        out = self._graph.output
        self.final = self._pull(out, self.order, self.entry, final=True)
        self.first = spectral_upper(self.final.entry)

    def _needed(self) -> list[Node]:
        """Return the nodes that the output is made of."""
        needed = {self._graph.output}
        for node in reversed(self._graph.nodes):
            if node.name in needed:
                needed.update(node.inputs)
        return [node for node in self._graph.nodes if node.name in needed]

    # --- at the centre --------------------------------------------------------------------------

    def _values(self, center: Tensor) -> dict[str, Approximate] | None:
        """Evaluate every node on the computed values of those before; None where one is unknown.

        Returns:
            Values with the error of the single step; of constants, that of all steps.
        """
        found = {self.entry: Approximate(center, torch.zeros_like(center))}
        for node in self._needed():
            if node.name == self.entry:
                continue
            if node.op not in ONE_STEP:
                return None
            step = ONE_STEP[node.op](node, [found[name] for name in node.inputs])
            if not node.perturbed:
                found[node.name] = step
                continue
            near = linearised(node, [found[name].value for name in node.inputs], self._norms)
            self.off[node.name] = frobenius_up(step.error)
            if near is None or not math.isfinite(self.off[node.name]):
                return None
            self.steps[node.name] = near
            found[node.name] = Approximate(step.value, torch.zeros_like(step.value))
        return found

    def _push(self, values: Mapping[str, Approximate]) -> None:
        """Take the Jacobian of every node, and its norms."""
        entry = self._graph[self.entry]
        count = math.prod(entry.shape)
        unit = torch.eye(count, dtype=torch.float64).reshape(count, *entry.shape)
        held = {entry.name: unit}
        self.sizes[entry.name] = Sizes(1.0, sqrt_up(float(count)), 0.0)
        last = {name: node.name for node in self.order for name in node.inputs}
        for node in self.order:
            step = self.steps[node.name]
            parts = [held.get(name) for name in node.inputs]
            made = step.push(parts)
            known = [self.sizes[n] for n in node.inputs if n in held]
            size = add_up(*[part.frobenius for part in known])
            lost = rounding_of(step, size, made.numel())
            gains = [g for g, n in zip(step.gains, node.inputs, strict=True) if n in held]
            pairs = zip(gains, known, strict=True)
            whole = add_up(*[mul_up(g, part.whole) for g, part in pairs], lost)
            frobenius = frobenius_up(made)
            self.sizes[node.name] = Sizes(min(whole, frobenius), frobenius, lost)
            held[node.name] = made
            if step.curvature is not None:
                self._note_source(node, step.curvature, parts, values)
            for name in node.inputs:
                if last[name] == node.name:
                    held.pop(name, None)

    def _note_source(
        self,
        node: Node,
        curvature: Curvature,
        parts: Sequence[Tensor | None],
        values: Mapping[str, Approximate],
    ) -> None:
        radii, mapped, fixed = [], [], []
        for k, (name, part) in enumerate(zip(node.inputs, parts, strict=True)):
            blocks, others = curvature.radii[k], curvature.parts[k]
            error = values[name].error
            off = lengths_up(blocks(error)[0]), lengths_up(others(error)[0])
            fixed.append(off)
            if part is None:
                radii.append(torch.zeros_like(off[0]))
                mapped.append(torch.zeros_like(off[1]))
                continue
            radii.append(_block_norms(part, blocks))
            mapped.append(radii[-1] if others is blocks else _block_norms(part, others))
            self._measure(name, part)
        self.sources[node.name] = Source(curvature, node.inputs, radii, mapped, fixed)

    def _measure(self, name: str, jacobian: Tensor) -> None:
        """Bound the norm of a Jacobian itself, where that is not too much work."""
        known = self.sizes[name]
        if name == self.entry or not self._affordable(flat_rows(jacobian)):
            return
        whole = min(known.whole, near_spectral_upper(flat_rows(jacobian)))
        self.sizes[name] = Sizes(whole, known.frobenius, known.rounding)

    def _affordable(self, matrix: Tensor) -> bool:
        small, large = sorted(matrix.shape)
        return float(small) * small * large <= self._work

    def _shape(self) -> None:
        """Take the profile of every source: its deviation on small balls."""
        for source in self.sources.values():
            tiny = 2.0**-20  # small next to where curvature changes, large next to rounding
            total = sum(
                spread
                for spread in source.curvature.spread(
                    [tiny * part for part in source.radii], [tiny * part for part in source.parts]
                )
            )
            profile = torch.as_tensor(total).clamp(max=1e100)
            top = float(profile.max())
            if top > 0.0:
                source.profile = (profile / top).clamp(min=1e-3)
            else:
                source.profile = torch.ones_like(profile)

    # --- back from the output and from cuts -----------------------------------------------------

    def _pull(self, start: str, stretch: Sequence[Node], front: str, final: bool) -> Tails:
        """Carry T from one node back to another through which, or from which, all paths lead."""
        shape = self._graph[start].shape
        count = math.prod(shape)
        unit = torch.eye(count, dtype=torch.float64).reshape(count, *shape)
        held, gain = {start: unit}, {start: 1.0}
        norms, rounding = {}, {}
        sums: dict[str, list[float]] = {}
        for node in reversed(stretch):
            if node.name not in held:
                continue
            rows, step = held.pop(node.name), self.steps[node.name]
            size = frobenius_up(rows)
            own = rounding.setdefault(node.name, 0.0)
            if node.name != start:
                own = add_up(own, mul_up(len(sums[node.name]) * UNIT, add_up(*sums[node.name])))
                rounding[node.name] = own
            reach = add_up(gain[node.name], own)
            norms[node.name] = self._tail(node, rows, min(reach, size), final)
            for name, part, wide in zip(node.inputs, step.pull(rows), step.gains, strict=True):
                if not self._graph[name].perturbed:
                    continue
                lost = rounding_of(step, size, part.numel())
                rounding[name] = add_up(rounding.get(name, 0.0), lost)
                gain[name] = add_up(gain.get(name, 0.0), mul_up(wide, norms[node.name]))
                sums.setdefault(name, []).append(frobenius_up(part))
                held[name] = held[name] + part if name in held else part
        zeros = torch.zeros(count, *self._graph[front].shape, dtype=torch.float64)
        entry = flat_rows(held.get(front, zeros))
        added = sums.get(front, [])
        summed = mul_up(len(added) * UNIT, add_up(*added))
        rounding[front] = add_up(rounding.get(front, 0.0), summed)
        norms[front] = min(frobenius_up(entry), add_up(gain.get(front, 0.0), rounding[front]))
        rounding.pop(start)
        return Tails(entry, norms, rounding)

    def _tail(self, node: Node, rows: Tensor, known: float, final: bool) -> float:
        """Return the norm of T at a node; for the last stretch note those of a source, too."""
        source = self.sources.get(node.name)
        if source is None:
            return known
        if not final:
            flat = flat_rows(rows)
            return min(known, near_spectral_upper(flat)) if self._affordable(flat) else known
        curvature = source.curvature
        if curvature.weight is not None:
            rows = rows * curvature.weight
        blocks = curvature.result(rows)
        shaped = (blocks * source.profile[:, None]).flatten(1)
        inflated = 1.0 + 8.0 * UNIT
        source.tail = mul_up(self._norm(blocks.flatten(1)), inflated)
        source.shaped = mul_up(self._norm(shaped), inflated)
        return known

    def _norm(self, matrix: Tensor) -> float:
        return near_spectral_upper(matrix) if self._affordable(matrix) else frobenius_up(matrix)

    def _between_cuts(self) -> list[Cut]:
        """Choose nodes that every path passes, and take T from each back to the one before."""
        cuts: list[Cut] = []
        products: list[tuple[Tensor, float]] = []  # from each earlier cut to the last, and errors
        front = self.entry
        for name, since in self._stretches():
            stretch = [self._graph[node] for node in since]
            tails = self._pull(name, stretch, front, final=False)
            size = self._norm(tails.entry) if cuts else 1.0  # nothing is turned at the input
            scale = frobenius_up(tails.entry)
            n = tails.entry.shape[1]
            following, across = [], []
            for matrix, error in products:
                made = tails.entry @ matrix
                lost = mul_up(2.0 * gamma(n), scale, frobenius_up(matrix))
                following.append((made, add_up(mul_up(size, error), lost)))
                across.append(add_up(self._norm(made), following[-1][1]))
            if cuts:
                following.append((tails.entry, 0.0))
                across.append(size)
            cuts.append(Cut(name, since, tails, (*across, 1.0)))
            products, front = following, name
        return cuts

    def _stretches(self) -> list[tuple[str, tuple[str, ...]]]:
        """Cut the nodes into stretches with some sources each, at nodes that every path passes."""
        last = {n: k for k, node in enumerate(self.order) for n in node.inputs}
        widest, reached = 4.0 * math.prod(self._graph[self.entry].shape), last.get(self.entry, 0)
        enough = max(2, len(self.sources) // 6)  # few cuts: every pair of them has a norm
        found, since, sources = [], [], 0
        for k, node in enumerate(self.order[:-1]):
            since.append(node.name)
            sources += node.name in self.sources
            size = float(math.prod(node.shape))
            if reached <= k and sources >= enough and size <= widest and size**3 <= self._work:
                found.append((node.name, tuple(since)))
                since, sources = [], 0
            reached = max(reached, last.get(node.name, k))
        return found


def _block_norms(jacobian: Tensor, blocks: Blocks) -> Tensor:
    """Return upper bounds of the l2 norms of blocks of a Jacobian [inputs, *shape], [blocks]."""
    laid = blocks(jacobian)
    count, entries = laid.shape[1:]
    if entries == 1:
        return lengths_up(laid[..., 0].mT)
    if min(entries, len(laid)) <= 64:  # eigenvectors of small matrices, all at once
        parts = laid.permute(1, 2, 0).split(max(1, 2**24 // (entries * len(laid))))
        found = torch.cat([spectral_uppers(part) for part in parts])
        return found.nan_to_num(math.inf, math.inf)
    return torch.tensor(
        [near_spectral_upper(laid[:, b].mT) for b in range(count)], dtype=torch.float64
    )
