"""Radii for the network as executed in float32, in whatever order its sums are taken.

For every float32 x' within r of a row, the executed and the exact value at a node differ by at most
E_0 + e_1, entry by entry, where E_0 belongs to the row and ||e_1|| <= E_1 r. What is read at x' is
at most L r away from the row's, so an affine node W x + b adds to E_0 what it rounds at the row
(`holdfast.bounds.float32`), and

    E_1' = ||W|| E_1 + gamma || |W| || (L + E_1).

The executed class then holds within (margin - E_0) / (K + E_1): the radius of the exact function,
with a smaller margin and a larger rate (Murray, 2026, arXiv 2603.13334, is the closest prior work).
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.bounds.float32 import (
    FLUSH,
    LARGEST,
    activation_rounding,
    affine_rounding,
    execution_error,
    gamma32,
    softmax_rounding,
)
from holdfast.brackets.flows import Flow, Flows
from holdfast.brackets.gain import GainReading
from holdfast.errors import InvalidInput, Obstacle, Unsupported
from holdfast.graph.ir import Graph, Node
from holdfast.graph.running import Approximate
from holdfast.graph.walk import Reading, Rule, read
from holdfast.norms.node import absolute_norm_upper
from holdfast.ops import Kind, rules
from holdfast.rounding import add_up, coarse_down, coarse_up, mul_up, next_down, rows_up, sqrt_up

EXECUTION = (
    "as executed by PyTorch in float32, with sums in any order, fused or not, subnormal numbers "
    "flushed to zero or not, and library functions within 32 units of roundoff of max(1, |x|), but "
    "without TF32, half precision, autocast, quantisation, and Winograd or FFT convolutions"
)
"""What the claim of `float32` semantics is about, in words."""


def check_float32(model: nn.Module, inputs: Tensor) -> None:
    """Refuse what is not executed in ordinary float32.

    Args:
        model: The model.
        inputs: [N, ...].

    Raises:
        Unsupported: With every reason at once: float64, half precision or quantised weights,
            autocast, TF32 or bf16 allowed for products.
        InvalidInput: When the inputs are not float32.
    """
    obstacles = [*_weights(model), *_quantised(model), *_settings(model)]
    if obstacles:
        raise Unsupported("float32 semantics", obstacles)
    if inputs.dtype != torch.float32:
        wanted = "float32 rows, as the network reads them (inputs.float() rounds them)"
        raise InvalidInput("inputs", str(inputs.dtype), wanted)


def _weights(model: nn.Module) -> list[Obstacle]:
    state = [*model.named_parameters(), *model.named_buffers()]
    advice = "convert it with model.float(), or use semantics='real'"
    return [
        Obstacle(path, "weights", f"stored as {str(value.dtype).removeprefix('torch.')}", advice)
        for path, value in state
        if value.is_floating_point() and value.dtype != torch.float32
    ]


def _quantised(model: nn.Module) -> list[Obstacle]:
    return [
        Obstacle(path, type(module).__name__, "quantised", "certify the model before quantisation")
        for path, module in model.named_modules()
        if ".quantized" in type(module).__module__
    ]


def _settings(model: nn.Module) -> list[Obstacle]:
    """Return the settings of torch that allow less than float32."""
    obstacles = [
        Obstacle("", "autocast", f"active on {device}", "certify outside of torch.autocast")
        for device in ("cpu", "cuda")
        if torch.is_autocast_enabled(device)
    ]
    backends = ["mkldnn.matmul", "mkldnn.conv", "cuda.matmul"]
    if any(value.is_cuda for value in model.parameters()):
        backends.append("cudnn.conv")  # TF32 unless it is turned off
    for name in backends:
        precision = operator.attrgetter(f"{name}.fp32_precision")(torch.backends)
        if precision not in ("none", "ieee"):
            why, advice = f"products in {precision}", "set its fp32_precision to 'ieee'"
            obstacles.append(Obstacle("", f"torch.backends.{name}", why, advice))
    return obstacles


@dataclass(frozen=True)
class Execution:
    """How far the executed logits can be from the exact ones, within r of a row.

    Attributes:
        error: [N, classes]: E_0, |executed - exact| at the row and the part of it elsewhere that
            does not grow with r.
        growth: E_1: the rest is at most growth r in the norm.
        limit: [N]: up to this distance nothing overflows, and `error` holds.
        in_range: [N] bool: nothing overflows at the row itself.
    """

    error: Tensor
    growth: float
    limit: Tensor
    in_range: Tensor

    def logits(self, exact: Approximate) -> Approximate:
        """Return the exact logits as an approximation of the executed ones."""
        # Subnormal differences may be flushed where logits are compared.
        error = rows_up(exact.error + self.error + FLUSH, 3)
        return Approximate(exact.value, error.nan_to_num(math.inf, math.inf))

    def pairs(self, rates: Tensor, norm: float) -> Tensor:
        """Return how fast differences of executed logits change, out of the exact rates."""
        apart = {1.0: 1.0, 2.0: sqrt_up(2.0), math.inf: 2.0}[norm]
        faster = rows_up(rates + mul_up(apart, self.growth), 2)
        return faster.fill_diagonal_(0.0)


def execution(
    graph: Graph, inputs: Tensor, radius: Tensor, norm: float, widest: float = 1.0
) -> Execution:
    """Bound the float32 execution of a graph on balls around rows.

    Args:
        graph: A captured classifier with float32 weights.
        inputs: [N, ...], float32.
        radius: [N]: the bounds need not hold farther away; those of the exact function, say.
        norm: 1, 2 or inf.
        widest: How far a step of length 1 goes at most, where distances have units of their own.

    Returns:
        The bounds, affine in the distance.

    Raises:
        Unsupported: When an op has no rule, naming every such op.
    """
    growth = Growth(graph, norm)
    # By units of plain distance from here on.
    radius = radius.nan_to_num(0.0)
    radius = (radius if widest == 1.0 else rows_up(radius * widest, 1)).clamp(max=LARGEST)
    # So many rows at once keep the largest nodes of ordinary nets within a few hundred MB.
    batches = zip(inputs.split(256), radius.split(256), strict=True)
    parts = [execution_error(graph, *batch, growth.rates) for batch in batches]
    room = next_down(LARGEST - torch.cat([part.peak for part in parts]))
    limit = torch.minimum(radius, coarse_down(next_down(room / growth.steepest)))
    return Execution(
        torch.cat([part.error for part in parts]),
        mul_up(coarse_up(growth.output), widest),
        limit if widest == 1.0 else next_down(limit / widest),
        room > 0,
    )


class Growth:
    """E_1 carried through one graph: how the error grows with the distance.

    Args:
        graph: Captured model.
        norm: 1, 2 or inf.

    Attributes:
        output: E_1 of the output.
        rates: By node: how fast its exact value and the growing part of its error can move.
        steepest: How fast any value or partial sum on the way can grow.
    """

    def __init__(self, graph: Graph, norm: float) -> None:
        self.graph, self.norm = graph, norm
        self._gains = GainReading(graph, norm)
        self._flows = Flows(graph, norm)
        self.steepest = 1.0
        table: dict[str, Rule] = rules(
            {
                Kind.AFFINE: self._affine,
                Kind.WIRING: self._flows.move,
                Kind.SUM: self._add,
                Kind.SCALAR: self._elementwise,
                Kind.CHOICE: self._constant,
                Kind.VECTOR: self._constant,
            },
            {"compare": self._compare},
        )
        entry = graph.perturbed_input
        start = {entry.name: self._flows.source(entry.shape, 0.0)}
        env = read(graph, Reading("growth of float32 errors", table, {}), start)
        self.output = self._flows.total(env[graph.output])
        self.rates = {name: self._reach(name, flow) for name, flow in env.items()}

    def _reach(self, name: str, flow: Flow | None) -> float:
        """Return how fast what is read of a node can move: L + E_1."""
        return add_up(self._gains.of(name), self._flows.total(flow))

    def _step(self, node: Node, flow: Flow | None, rounding: float) -> Flow:
        """Pass an error through an operation, and add its own rounding."""
        passed = mul_up(self._gains.own[node.name], self._flows.total(flow))
        added = mul_up(rounding, self._reach(node.inputs[0], flow))
        return self._end(node, add_up(passed, added))

    def _end(self, node: Node, growth: float) -> Flow:
        self.steepest = max(self.steepest, add_up(self._gains.of(node.name), growth))
        return self._flows.source(node.shape, growth)

    def _affine(self, node: Node, flows: Sequence[Flow | None]) -> Flow:
        shape = self.graph[node.inputs[0]].shape
        size = absolute_norm_upper(node, shape, self.norm)
        self.steepest = max(self.steepest, mul_up(size, self._reach(node.inputs[0], flows[0])))
        # Coefficients that may be flushed: a matrix with no entry above FLUSH.
        flushed = FLUSH * max(math.prod(shape), math.prod(node.shape))
        rounding = add_up(mul_up(affine_rounding(node, shape), size), flushed)
        return self._step(node, flows[0], rounding)

    def _elementwise(self, node: Node, flows: Sequence[Flow | None]) -> Flow:
        return self._step(node, flows[0], activation_rounding(node)[0])

    def _constant(self, node: Node, flows: Sequence[Flow | None]) -> Flow:
        if node.op not in ("softmax", "log_softmax", "logsumexp"):
            return self._step(node, flows[0], 0.0)
        entries = float(math.prod(node.shape))
        spread = {1.0: entries, 2.0: sqrt_up(entries), math.inf: 1.0}[self.norm]
        rounding = softmax_rounding(node, self.graph[node.inputs[0]].shape)
        return self._step(node, flows[0], mul_up(rounding, spread))

    def _add(self, node: Node, flows: Sequence[Flow | None]) -> Flow:
        pairs = zip(node.inputs, flows, strict=True)
        reach = add_up(*[self._reach(name, flow) for name, flow in pairs])
        self.steepest = max(self.steepest, reach)
        errors = add_up(*map(self._flows.total, flows))
        return self._end(node, add_up(errors, mul_up(gamma32(len(flows) + 2), reach)))

    def _compare(self, node: Node, flows: Sequence[Flow | None]) -> Flow:
        return self._end(node, self._flows.joined(flows))
