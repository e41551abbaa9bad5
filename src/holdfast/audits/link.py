"""Where knowledge continuity and Lipschitz constants meet: each checks the other.

With h the network up to a layer, K its Lipschitz constant, and C the one of the loss of a fixed
label as a function of the layer's states: two inputs with the same label have
|change of loss| <= C d_layer <= C K d_input. So the steepest same-label pair of any sample is a
lower bound of C, and E[change of loss / d_input] <= K x volatility, collisions apart.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from holdfast.brackets.gain import GainReading
from holdfast.errors import InternalError, Unsupported
from holdfast.graph.ir import Graph
from holdfast.graph.walk import hidden_states
from holdfast.knowledge_continuity.evidence.expected import VolatilityCertificate
from holdfast.knowledge_continuity.result import Knowledge
from holdfast.knowledge_continuity.states.losses import row_losses
from holdfast.rounding import down, mul_up, sqrt_up
from holdfast.types import Estimate

_NORMS = {"euclidean": 2.0, "manhattan": 1.0, "chebyshev": math.inf}
STEEPEST = {1.0: 1.0, 2.0: sqrt_up(2.0), math.inf: 2.0}
"""Dual norm of the gradient in the logits, at most, for each loss below: for cross entropy it is
softmax - one-hot, for the margin one logit less another, for Brier 2 J (p - one-hot) with J the
covariance matrix of a distribution on the classes."""


@dataclass(frozen=True)
class Link:
    """What two halves of the library say about one layer.

    Attributes:
        layer: Module path.
        norm: Of inputs and states.
        tail_upper: C, in loss per unit of distance in the layer.
        front_upper: K, in distance in the layer per unit of input.
        steepest: Largest change of loss / distance over same-label pairs of the data, in float64;
            None where no such pair was found. It never exceeds C.
        expected_rate: K times the volatility: an estimate of an upper bound of the expected change
            of loss per unit of distance between two random inputs, those that the layer tells
            apart.
        expected_upper: The same with a confidence instead of an estimate, with short distances and
            large changes cut off; None without evidence or a finite K.
        statement: What follows, in words.
    """

    layer: str
    norm: float
    tail_upper: float
    front_upper: float
    steepest: float | None
    expected_rate: Estimate
    expected_upper: VolatilityCertificate | None
    statement: str

    def radius(self, eta: float) -> float:
        """Return within which distance of any input its loss rises by at most eta.

        Args:
            eta: Rise of the loss, at least 0.

        Returns:
            eta / (C K), rounded down, in input units.
        """
        rate = mul_up(self.tail_upper, self.front_upper)
        return max(0.0, down(eta / rate)) if 0 < rate < math.inf else 0.0


class Links:
    """The links of all layers of a model; the norm of every operator is computed once.

    Args:
        graph: The captured model.
        knowledge: Measured on the same rows, of all pairs.
        inputs: [N, ...].
        labels: [N].
    """

    def __init__(self, graph: Graph, knowledge: Knowledge, inputs: Tensor, labels: Tensor) -> None:
        self._graph, self._knowledge = graph, knowledge
        self._inputs, self._labels = inputs, labels

    def at(self, layer: str) -> Link:
        """Bound a layer from both sides, and check that the sides agree.

        Args:
            layer: Module path.

        Returns:
            The constants of both halves and what follows from them.

        Raises:
            Unsupported: When loss, distance or a part of the model has no Lipschitz constant.
            InternalError: When a pair of rows is steeper than the proved constant.
        """
        knowledge = self._knowledge
        gains, node = self._gains, self._graph.layer_node(layer)
        tail = mul_up(STEEPEST[gains.norm], gains.after(node.name))
        head = gains.of(node.name)
        seen = self._slope(layer)
        if seen is not None and seen > tail:
            raise InternalError(
                f"layer {layer!r}: rows {knowledge.steepest[layer]} with the same label have slope "
                f"{seen!r}, more than the proved constant {tail!r}"
            )
        raw = knowledge.volatility[layer]
        rate = Estimate(head * raw.value, head * raw.low, head * raw.high, raw.level)
        certified = None
        if knowledge.evidence[layer] is not None and 0 < head < math.inf:
            certified = knowledge.volatility_certificate(layer, front_upper=head)
        words = _statement(layer, tail, head, rate)
        return Link(layer, gains.norm, tail, head, seen, rate, certified, words)

    @cached_property
    def _gains(self) -> GainReading:
        """The gains of the whole model, in the norm of the distance."""
        norm, loss = _NORMS.get(self._knowledge.distance), self._knowledge.loss
        if norm is None or loss not in ("cross_entropy", "margin", "brier"):
            what = f"a Lipschitz constant for {loss} and {self._knowledge.distance} distance"
            raise Unsupported(what, [])
        return GainReading(self._graph, norm)

    def _slope(self, layer: str) -> float | None:
        """Return change of loss / distance of the steepest same-label pair, in float64."""
        steepest = self._knowledge.steepest[layer]
        if steepest is None:
            return None
        rows = torch.tensor(steepest[1:])
        outputs, states = hidden_states(self._double, self._inputs[rows].double(), [layer])
        losses = row_losses(self._knowledge.loss, outputs, self._labels[rows])
        gap = (states[layer][0] - states[layer][1]).flatten()
        distance = float(torch.linalg.vector_norm(gap, ord=_NORMS[self._knowledge.distance]))
        return float((losses[0] - losses[1]).abs()) / distance if distance else None

    @cached_property
    def _double(self) -> Graph:
        return self._graph.double()


def _statement(layer: str, tail: float, head: float, rate: Estimate) -> str:
    if not (math.isfinite(tail) and math.isfinite(head)):
        return f"No finite Lipschitz constant is proved on both sides of layer {layer!r}."
    return (
        f"At layer {layer!r} the loss of a fixed label changes by at most {tail:.4g} per unit of "
        f"distance, and the layer by at most {head:.4g} per unit of input: both are proved for all "
        f"inputs. Between two random inputs the loss changes by an estimated {rate.value:.4g} per "
        f"unit of input at most (interval {rate.low:.4g} to {rate.high:.4g}), pairs apart that the "
        "layer maps to one point; this is about random pairs of the data, not about every input."
    )
