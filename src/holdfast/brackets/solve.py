"""The bracket: a proved upper bound and an attained lower bound of a Lipschitz constant."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from holdfast.brackets.gain import GainReading, LayerGain
from holdfast.brackets.lower import Witness, sample, steepest_pairs
from holdfast.errors import InvalidInput
from holdfast.graph.capture import Example, capture, check_example, check_unchanged
from holdfast.graph.ir import Graph
from holdfast.types import Outcome, Region, check_norm, norm_name

Report = Callable[["Step"], None]


@dataclass(frozen=True)
class Step:
    """One improvement of a bracket.

    Attributes:
        seconds: Since the start.
        side: "lower" or "upper".
        value: The new bound.
        method: What found it.
    """

    seconds: float
    side: str
    value: float
    method: str


@dataclass(frozen=True)
class Bracket:
    """What is known about a Lipschitz constant: lower <= constant <= upper.

    Attributes:
        lower: Slope of `witness`, rounded down.
        upper: Proved bound.
        norm: 1, 2 or inf, on inputs and outputs.
        lower_by: Method that found the lower bound.
        upper_by: Method that proved the upper bound.
        witness: Two inputs, float64, whose slope is at least `lower`; None where nothing moved.
        trace: Every improvement, in time.
        layers: The gain of every single operation.
        outcome: How the search ended.
        assumptions: What the bracket takes for granted, in sentences.
        seconds: Time spent.
    """

    lower: float
    upper: float
    norm: float
    lower_by: str
    upper_by: str
    witness: tuple[Tensor, Tensor] | None
    trace: tuple[Step, ...]
    layers: tuple[LayerGain, ...]
    outcome: Outcome
    assumptions: tuple[str, ...]
    seconds: float

    @property
    def ratio(self) -> float:
        """Upper / lower: 1 when the constant is known exactly, inf when nothing moved."""
        if self.upper == self.lower:
            return 1.0
        return self.upper / self.lower if self.lower > 0 else math.inf


def lipschitz(
    model: nn.Module,
    example: Example,
    norm: float = 2,
    region: Region | None = None,
    seconds: float = 10.0,
    tolerance: float = 1e-3,
) -> Bracket:
    """Bracket the Lipschitz constant of a trained network.

    The upper bound is the gain (`holdfast.brackets.gain`): it holds on all inputs, so on any
    region too. The lower bound is the largest proved slope between two inputs near the rows of
    `example` or, with a region, between two points of it.

    Args:
        model: Any module in eval mode.
        example: Inputs with batch dimension, [N, ...]: the more rows, the better the lower bound.
        norm: 1, 2 or inf, on inputs and outputs.
        region: Where the inputs lie (`Ball` or `Box`, in input units); None for everywhere.
        seconds: Time for the lower bound.
        tolerance: Stop when upper / lower <= 1 + tolerance.

    Returns:
        The bracket: `lower <= constant <= upper` in exact real arithmetic on the stored weights.

    Raises:
        Unsupported: When the model cannot be captured or an op has no known constant; all
            reasons at once, each with its module path.
        InvalidInput: When an argument is out of range.

    >>> import torch, holdfast
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    >>> bracket = holdfast.lipschitz(model, torch.zeros(1, 2))
    >>> print(f"{bracket.lower:.6f} <= L <= {bracket.upper:.6f}: {bracket.outcome.name}")
    3.000000 <= L <= 3.000000: CLOSED
    """
    graph = capture(model, example)
    search = Search(graph, check_norm(norm), region, seconds, tolerance)
    bracket = search.run(_points(graph, example))
    check_unchanged(graph, model)
    return bracket


def _points(graph: Graph, example: Example) -> Tensor:
    """Return the rows of the one input that moves."""
    check_example(example)
    return example if isinstance(example, Tensor) else example[graph.perturbed_input.name]


@dataclass
class Search:
    """One run of the anytime bracket on a captured graph.

    Attributes:
        graph: The model.
        norm: 1, 2 or inf.
        region: Where the inputs lie.
        seconds: Time for the lower bound.
        tolerance: Stop when upper / lower <= 1 + tolerance.
        report: Called with every improvement.
    """

    graph: Graph
    norm: float = 2.0
    region: Region | None = None
    seconds: float = 10.0
    tolerance: float = 1e-3
    report: Report = lambda step: None
    _steps: list[Step] = field(default_factory=list, init=False)
    _start: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        for name in ("seconds", "tolerance"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise InvalidInput(name, value, "a finite number, at least 0")

    def run(self, points: Tensor) -> Bracket:
        """Search from the given points, [N, ...], and return the bracket."""
        self._start = time.perf_counter()
        gain = GainReading(self.graph, self.norm)
        self._note("upper", gain.output, "gain")
        witness, outcome = self._climb(points, gain.output)
        lower = witness.slope if witness else 0.0
        return Bracket(
            lower=lower,
            upper=gain.output,
            norm=self.norm,
            lower_by="largest Jacobian over data" if witness else "nothing moved",
            upper_by="gain",
            witness=(witness.first, witness.second) if witness else None,
            trace=tuple(self._steps),
            layers=tuple(gain.layers),
            outcome=outcome,
            assumptions=self._assumptions(),
            seconds=time.perf_counter() - self._start,
        )

    def _note(self, side: str, value: float, method: str) -> None:
        step = Step(time.perf_counter() - self._start, side, value, method)
        self._steps.append(step)
        self.report(step)

    def _climb(self, points: Tensor, upper: float) -> tuple[Witness | None, Outcome]:
        """Raise the lower bound until the tolerance, the end of the points or of the time."""
        best, outcome = None, Outcome.EXHAUSTED
        pairs = steepest_pairs(self.graph, self._starts(points), self.norm, self.region)
        try:
            for witness in pairs:
                best = witness
                self._note("lower", witness.slope, "largest Jacobian over data")
                if upper <= witness.slope * (1.0 + self.tolerance):
                    return best, Outcome.CLOSED
                if time.perf_counter() - self._start > self.seconds:
                    return best, Outcome.BUDGET_SPENT
        except KeyboardInterrupt:
            outcome = Outcome.INTERRUPTED
        if best is None and upper == 0.0:
            return None, Outcome.CLOSED
        return best, Outcome.UNBOUNDED if math.isinf(upper) else outcome

    def _starts(self, points: Tensor) -> Tensor:
        """Return the finite rows of the data, or points of the region."""
        generator = torch.Generator().manual_seed(0)
        if self.region is not None:
            return sample(self.region, 512, generator)
        points = points.double()
        finite = points[torch.isfinite(points.flatten(1)).all(1)]
        if not len(finite):
            raise InvalidInput("example", "no row without NaN or infinity", "at least one")
        noise = torch.randn(finite.shape, generator=generator, dtype=torch.float64)
        return torch.cat([finite, finite + noise * (float(finite.std(correction=0)) or 1.0)])

    def _assumptions(self) -> tuple[str, ...]:
        where = "all inputs" if self.region is None else "the region, proved on all inputs"
        sentences = [
            f"The bracket is about {where}, with the {norm_name(self.norm)} norm on inputs and "
            "outputs, flattened.",
            "It is about the exact real function of the stored weights, not about rounding in "
            "the network as executed.",
            "Parametrised weights are taken as the model computes them once, in its precision.",
        ]
        if any(node.op == "softplus" for node in self.graph.nodes):
            sentences.append("Softplus is log(1 + exp x), without torch's switch above 20.")
        return tuple(sentences)
