"""The centred bound: the Jacobian at the centre of a ball, and what the others differ by.

Near the centre every operation v is a linear map A_v of stored numbers and a deviation D_v
(`holdfast.bounds.curvature`). For two inputs x and x' of the ball let y_v be the difference of the
values of v. Then y_v = (A_v + D_v) y_in(v). Let T_v be any matrices with T = I at the output, and
rho_u = T_u - sum over the readers v of u of T_v A_vu. Adding T_v (y_v - A_v y_in(v)) over all v,

    y_out = T_input (x - x') + sum_v T_v D_v y_in(v) - sum_u rho_u y_u,

exactly. Computed backwards in floating point, T is the Jacobian from every node to the output, and
rho is rounding alone; so what is proved rests on the rounding of single steps. For small balls the
first term is all that is left: the bound goes to the norm of the Jacobian at the centre.

How long y_u can be comes from the Jacobians J_u of stored numbers in front, J_v = A_v J_in(v) + R_v
with R_v rounding alone: y_u - J_u (x - x') obeys the same system with the sources D_v y_in(v) and
-R_v (x - x'). It is bounded forwards, operation by operation; at cuts, through which every path
leads, the identity above, with T from the cut back to the one before it, takes the place of
products of norms, and so do products of these T from cut to cut. The same holds for how far the
values at the centre are from the computed ones, with the rounding of single evaluations as sources.
Values move by at most the radius times the bound of y_u, which is known from what comes before: one
pass in order is enough.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from holdfast.bounds.centre import Centre, Cut, Source
from holdfast.graph.ir import Graph, Node
from holdfast.rounding import add_up, lengths_up, mul_up, rows_up


@dataclass
class _Pass:
    """One pass over the nodes for one radius.

    Attributes:
        radius: Of the ball.
        turned: By node, bounds of ||y - J (x - x')|| / ||x - x'||.
        off: By node, bounds of the distance of the value at the centre from the computed one.
        made: By source, what it adds to both.
        terms: By source, what it adds to the output.
    """

    radius: float
    turned: dict[str, float] = field(default_factory=dict)
    off: dict[str, float] = field(default_factory=dict)
    made: dict[str, tuple[float, float]] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Deviation:
    """What one source makes: of differences, at the output, and of errors at the centre."""

    length: float
    final: float
    off: float


class Centred:
    """Bounds the Lipschitz constant, in l2, on balls of any radius around one centre.

    Args:
        graph: Captured model, or a part of one.
        center: Shape of one input.

    Attributes:
        covers: Whether every operation has a deviation that is known; nothing is bounded where not.
    """

    def __init__(self, graph: Graph, center: Tensor) -> None:
        self._centre = Centre(graph, center)
        self.covers = self._centre.covers

    @torch.no_grad()
    def upper(self, radius: float) -> float:
        """Return a proved upper bound of the Lipschitz constant on the ball of a radius, in l2.

        Args:
            radius: At least 0.

        Returns:
            The bound; inf where nothing finite is proved.
        """
        if not self.covers:
            return math.inf
        pass_ = _Pass(radius)
        pass_.turned[self._centre.entry] = pass_.off[self._centre.entry] = 0.0
        ends = {cut.name: k for k, cut in enumerate(self._centre.cuts)}
        stretches: list[tuple[float, float]] = []
        for node in self._centre.order:
            self._forward(node, pass_)
            if node.name in ends:
                cut = self._centre.cuts[ends[node.name]]
                stretches.append(self._stretch(cut, pass_))
                for kept, side in ((pass_.turned, 0), (pass_.off, 1)):
                    terms = zip(cut.across, stretches, strict=True)
                    across = add_up(*[mul_up(gain, made[side]) for gain, made in terms])
                    kept[node.name] = min(kept[node.name], across)
        total = [self._centre.first, *pass_.terms.values()]
        for name, lost in self._centre.final.rounding.items():
            total.append(
                mul_up(lost, add_up(self._centre.sizes[name].frobenius, pass_.turned[name]))
            )
        found = add_up(*total)
        return found if found >= 0.0 else math.inf

    def _forward(self, node: Node, pass_: "_Pass") -> None:
        """Bound how far the differences of a node are from the Jacobian's, and its values off."""
        step = self._centre.steps[node.name]
        turned, off = [self._centre.sizes[node.name].rounding], [self._centre.off[node.name]]
        for name, gain in zip(node.inputs, step.gains, strict=True):
            turned.append(mul_up(gain, pass_.turned.get(name, 0.0)))
            off.append(mul_up(gain, pass_.off.get(name, 0.0)))
        if node.name in self._centre.sources:
            made = self._deviation(self._centre.sources[node.name], pass_)
            pass_.terms[node.name] = made.final
            pass_.made[node.name] = made.length, made.off
            turned.append(made.length)
            off.append(made.off)
        pass_.turned[node.name], pass_.off[node.name] = add_up(*turned), add_up(*off)

    def _stretch(self, cut: Cut, pass_: "_Pass") -> tuple[float, float]:
        """Return what a stretch adds at its end, to differences and to the values at the centre."""
        turned, off = [], []
        for name in cut.since:
            tail = cut.tails.norms.get(name, 0.0)
            turned.append(mul_up(tail, self._centre.sizes[name].rounding))
            off.append(mul_up(tail, self._centre.off[name]))
            if name in pass_.made:
                turned.append(mul_up(tail, pass_.made[name][0]))
                off.append(mul_up(tail, pass_.made[name][1]))
        for name, lost in cut.tails.rounding.items():
            turned.append(mul_up(lost, pass_.turned[name]))
            off.append(mul_up(lost, pass_.off[name]))
        return add_up(*turned), add_up(*off)

    def _deviation(self, source: Source, pass_: "_Pass") -> "_Deviation":
        """Bound what D makes of differences, its part of the output, and what D makes of errors."""
        turned = [pass_.turned.get(name, 0.0) for name in source.inputs]
        errors = [pass_.off.get(name, 0.0) for name in source.inputs]
        moves = [name in pass_.turned for name in source.inputs]
        radii, reach, lengths, wholes = [], [], [], []
        for k, name in enumerate(source.inputs):
            if not moves[k]:
                radii.append(source.fixed[k][0])
                reach.append(source.fixed[k][1])
                lengths.append(source.parts[k])
                wholes.append(0.0)
                continue
            radii.append(rows_up(pass_.radius * (source.radii[k] + turned[k]) + errors[k], 4))
            reach.append(rows_up(pass_.radius * (source.parts[k] + turned[k]) + errors[k], 4))
            lengths.append(rows_up(source.parts[k] + turned[k], 2))
            wholes.append(add_up(self._centre.sizes[name].whole, turned[k]))
        spreads = source.curvature.spread(radii, reach)
        weight, profile = source.curvature.largest, source.profile

        def length(scale: Tensor | None) -> float:
            """Bound ||D y|| with its blocks divided by a scale."""
            shares = [s if scale is None else rows_up(s / scale, 2) for s in spreads]
            made = zip(shares, lengths, strict=True)
            apart = rows_up(sum((s * part for s, part in made), torch.zeros(())), 4)
            tops = [mul_up(_top(s), whole) for s, whole in zip(shares, wholes, strict=True)]
            return min(float(lengths_up(apart)), add_up(*tops))

        plain = length(None)
        final = min(mul_up(source.tail, plain), mul_up(source.shaped, length(profile)))
        off = [mul_up(_top(s), error) for s, error in zip(spreads, errors, strict=True)]
        return _Deviation(mul_up(weight, plain), final, mul_up(weight, add_up(*off)))


def _top(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0
