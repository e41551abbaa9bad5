"""The anytime search that closes a bracket: cheap bounds first, then whichever side gains most."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from holdfast.arguments import check_norm, check_number, check_seed, shown
from holdfast.bounds.centred import Centred
from holdfast.bounds.interval import READING
from holdfast.bounds.jacobian import region_constant_upper
from holdfast.brackets.bracket import Bracket
from holdfast.brackets.branching.boxes import branch_boxes, few_move
from holdfast.brackets.branching.merging import merged
from holdfast.brackets.branching.tree import Goal, branch
from holdfast.brackets.budget import affords, norms_products, products
from holdfast.brackets.gain import GainReading, LayerGain
from holdfast.brackets.lower.ascent import ascending_pairs
from holdfast.brackets.lower.pairs import SteepPair, sample
from holdfast.brackets.lower.steepest import steepest_pairs
from holdfast.brackets.semidefinite import slope_bounds
from holdfast.errors import InternalError, InvalidInput, Unsupported
from holdfast.graph.comparisons import with_pairs
from holdfast.graph.ir import Graph
from holdfast.graph.walk import uncovered
from holdfast.moves import EVERYTHING, Moves
from holdfast.types import (
    Ball,
    Box,
    Improvement,
    Outcome,
    Progress,
    Region,
    Report,
    norm_name,
    silent,
)


@dataclass(frozen=True)
class LipschitzOptions:
    """How a Lipschitz constant is bracketed.

    Attributes:
        norm: 1, 2 or inf, on inputs and outputs.
        region: Where the inputs lie; None for everywhere.
        seconds: Time to spend after capture. What would not fit is left out, with a note; the first
            bounds and a step that has begun are finished.
        tolerance: Stop when upper / lower <= 1 + tolerance.
        moves: What may move, in which units.
        seed: Of the random points and steps of the lower bound.

    Raises:
        InvalidInput: When one of them is something else, or a number is negative or not finite.
        Unsupported: When there are one-hot groups.
    """

    norm: float = 2.0
    region: Region | None = None
    seconds: float = 10.0
    tolerance: float = 1e-3
    moves: Moves = EVERYTHING
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", check_norm(self.norm))
        check_seed(self.seed)
        for name in ("seconds", "tolerance"):
            wanted = "a finite number, at least 0"
            value = check_number(name, getattr(self, name), lambda v: 0 <= v < math.inf, wanted)
            object.__setattr__(self, name, value)
        if not isinstance(self.region, Ball | Box | None):
            wanted = "a holdfast.Ball, a holdfast.Box, or None for everywhere"
            raise InvalidInput("region", shown(self.region), wanted)
        self.moves.check_no_groups("lipschitz")
        if isinstance(self.region, Box) and (self.moves.free, self.moves.scale) != (None, None):
            wanted = "a holdfast.Ball in these units, or None for everywhere"
            raise InvalidInput("region", "a Box beside `free` or `scale`", wanted)


@dataclass
class Search:
    """One run of the anytime bracket on a captured graph.

    Attributes:
        graph: The model.
        options: Norm, region, time and tolerance.
        report: Called with every improvement.
        branches: Whether branch and bound may say something: not where the graph stands for many
            functions, one for each value of what is kept.

    Raises:
        InvalidInput: When the region does not fit the input.
    """

    graph: Graph
    options: LipschitzOptions
    report: Report = silent
    branches: bool = True
    _trace: list[Improvement] = field(default_factory=list, init=False)
    _start: float = field(default=0.0, init=False)
    _upper: float = field(default=math.inf, init=False)
    _witness: SteepPair | None = field(default=None, init=False)
    _skipped: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        region = self.options.region
        if region is not None:
            corner = region.low if isinstance(region, Box) else region.center
            shape, wanted = tuple(corner.shape), self.graph.perturbed_input.shape
            if shape != wanted:
                raise InvalidInput("region", f"shape {shape}", f"{wanted}, that of one input")

    def run(self, points: Tensor) -> Bracket:
        """Search from the given points and return the bracket.

        Args:
            points: [N, ...]: rows of data to look around; with a region, they are not used.

        Returns:
            The best bracket found, also when the user interrupts.

        Raises:
            Unsupported: When an op has no known Lipschitz constant.
            InvalidInput: When no row is finite.
        """
        self._start = time.perf_counter()
        region = self.options.region
        few = self.branches and region is not None and few_move(region)
        model, boxes = self.graph, iter(())
        if few:
            self._merge()
            boxes = self._boxes()
        # The whole region is the first box: where few entries move, that costs next to nothing.
        self._take(next(boxes, math.inf), "affine forms on the region")
        gain = self._gains(model)
        self._bound_jacobian(needed=math.isinf(self._upper))
        self._bound_centred()
        starts = self._starts(points)
        interrupted, seconds = False, self.options.seconds
        try:
            # Each method gives way to the next after a share of the time. What the first ascent
            # has not found after two seconds, it finds when the upper bound is known.
            self._look_around(starts, 0.15 * seconds)
            self._ascend(starts, min(0.4 * seconds, 2.0), again=False)
            self._branch_boxes(boxes, 0.5 * seconds)
            self._solve_lipsdp(0.8 * seconds)
            self._branch(0.9 * seconds)
            self._branch_boxes(boxes, 0.9 * seconds)
            self._ascend(self._with_witness(starts), seconds, again=True)
        except KeyboardInterrupt:
            interrupted = True
        layers = () if gain is None else tuple(gain.layers)
        return self._bracket(layers, self._outcome(interrupted))

    def _merge(self) -> None:
        """Go on with the same function without kinks that are there twice."""
        pairs = with_pairs(self.graph.double())
        # so many terms of sums take a fifth of the time
        once = merged(pairs, int(0.2 * self.options.seconds / 8e-6))
        self.graph = self.graph if once is pairs else once

    def _gains(self, model: Graph) -> GainReading | None:
        """Take the gain on all inputs.

        Args:
            model: The graph as it was captured: the gains of layers are those of its layers.

        Returns:
            The gain; None where there is none, or it takes long, and a region has bounds.

        Raises:
            Unsupported: When there is no region, or an op has no bounds on it either.
        """
        norm, region, method = self.options.norm, self.options.region, "product of layer gains"
        if self._upper < math.inf:
            # Small nets have their layers shown, however little time there is.
            seconds, skipped = max(0.2 * self.options.seconds, 1.0), self._skipped.append
            if not affords(f"the {method}", norms_products(model, norm), 0.0, seconds, skipped):
                return None
        try:
            gain = GainReading(model, norm, runs=self.graph is model)
        except Unsupported:
            if region is None or uncovered(model, READING):
                raise
            return None
        self._lower_upper(gain.output, method)
        if self.graph is not model:
            self._lower_upper(GainReading(self.graph, norm).output, method)
        return gain

    def _bound_jacobian(self, needed: bool) -> None:
        """Bound the constant by a box around the Jacobian on the region.

        Args:
            needed: Whether nothing else bounds it.
        """
        region, norm = self.options.region, self.options.norm
        if region is None:
            return
        # Two passes for every output; those that tighten the bounds in front are as many again.
        outputs = math.prod(self.graph[self.graph.output].shape)
        count, seconds = 8.0 * outputs * products(self.graph), 0.2 * self.options.seconds
        entries = 2.0 * outputs * math.prod(self.graph.perturbed_input.shape)
        skipped = self._skipped.append
        if needed or affords("a box around the Jacobian", count, entries, seconds, skipped):
            found = region_constant_upper(self.graph, region, norm)
            self._lower_upper(found, "box around the Jacobian on the region")

    def _bound_centred(self) -> None:
        """Bound the constant by the Jacobian at the centre and what others differ by, in l2."""
        region = self.options.region
        if not isinstance(region, Ball) or (region.norm, self.options.norm) != (2.0, 2.0):
            return
        # Every input is carried to every node, and back from a few of them; norms of the widest
        # take the cube of their size.
        inputs, outputs = (math.prod(self.graph[name].shape) for name in self._ends())
        count = (2.0 * inputs + outputs) * products(self.graph) + 40.0 * inputs**3
        widest = max(math.prod(node.shape) for node in self.graph.nodes)
        seconds, skipped = 0.5 * self.options.seconds, self._skipped.append
        held = 4.0 * max(inputs, outputs) * widest
        if affords("the Jacobian at the centre", count, held, seconds, skipped):
            found = Centred(self.graph, region.center).upper(region.radius)
            self._lower_upper(found, "Jacobian at the centre and what others differ by")

    def _ends(self) -> tuple[str, str]:
        return self.graph.perturbed_input.name, self.graph.output

    @property
    def _lower(self) -> float:
        return self._witness.slope if self._witness else 0.0

    @property
    def _closed(self) -> bool:
        return self._upper <= self._lower * (1.0 + self.options.tolerance)

    @property
    def _spent(self) -> float:
        return time.perf_counter() - self._start

    def _late(self, end: float) -> bool:
        return self._spent > end

    def _lower_upper(self, value: float, method: str) -> None:
        """Take a proved upper bound where it is better than the one so far."""
        if value < self._upper:
            self._upper = value
            self._note("upper", value, method)

    def _raise_lower(self, witness: SteepPair, method: str) -> None:
        """Take a witness where its slope is larger than the one so far."""
        if witness.slope > self._lower:
            self._witness = witness
            self._note("lower", witness.slope, method)

    def _note(self, side: str, value: float, method: str) -> None:
        if self._lower > self._upper:
            ends = f"a slope of {self._lower!r} above the upper bound {self._upper!r}"
            raise InternalError(f"{ends} ({method})")
        improvement = Improvement(self._spent, side, value, method)
        self._trace.append(improvement)
        self.report(Progress("Lipschitz bracket", improvement=improvement))

    def _look_around(self, starts: Tensor, end: float) -> None:
        """Take the steepest direction at every starting point."""
        options = self.options
        # A step of the power iteration on all points of a batch takes a fraction of a second.
        batch = min(max(1, int(2e9 / (1 + products(self.graph)))), 256)
        if self._late(end) and products(self.graph) > 2**26:
            starts = starts[:1]  # each takes tenths of a second

        def spent() -> bool:
            return self._late(end)

        pairs = steepest_pairs(self.graph, starts, options.norm, options.region, batch, spent)
        for witness in pairs:
            self._raise_lower(witness, "largest Jacobian over data")
            if self._closed or self._late(end):
                return

    def _ascend(self, starts: Tensor, end: float, again: bool) -> None:
        """Climb from the starting points until so many seconds are spent; again: by other draws."""

        def spent() -> bool:
            return self._closed or self._late(end)

        if math.isinf(self._upper) or spent():
            return
        options = self.options
        seed = (2 * options.seed + again) % 2**63
        pairs = ascending_pairs(self.graph, starts, options.norm, options.region, spent, seed)
        for witness in pairs:
            self._raise_lower(witness, "smoothed ascent")

    def _with_witness(self, starts: Tensor) -> Tensor:
        """Put the best point so far first."""
        if self._witness is None:
            return starts
        return torch.cat([self._witness.first[None], starts])

    def _solve_lipsdp(self, end: float) -> None:
        """Bound the constant by the slopes of the activations together."""
        options = self.options
        if math.isinf(self._upper) or self._closed:
            return
        if self._late(options.seconds):
            self._skipped.append("LipSDP was left out: the time was spent before it")
            return
        left = max(end - self._spent, 0.1 * options.seconds)
        accuracy, skipped = 0.3 * options.tolerance, self._skipped.append
        bounds = slope_bounds(self.graph, options.norm, accuracy, left, options.region, skipped)
        for value, method in bounds:
            self._lower_upper(value, method)
            if self._closed:
                return

    def _branch(self, end: float) -> None:
        """Split the inputs into cells with fewer kinks, down to the linear pieces."""
        if not self.branches or math.isinf(self._upper) or self._closed or self._late(end):
            return
        if products(self.graph) > 2**24:
            return  # so large a net has more kinks than branching ends with, and long lists of them
        for found in branch(self.graph, self._goal(end)):
            self._take(found, "branch and bound")

    def _boxes(self) -> Iterator[float | SteepPair]:
        """Return the search that splits the region into boxes, where some of them fit."""
        d = min(math.prod(self.graph.perturbed_input.shape), 12)
        widest = max(math.prod(node.shape) for node in self.graph.nodes)
        # A value and a gradient, with what they are off by, for the boxes that are read at once.
        each = 2.0 + 3.0 * d
        boxes = min(max(1.0, 2**22 / (widest * each)), 256.0)
        count, entries = boxes * each * products(self.graph), 8.0 * each * widest
        name, seconds = "splitting the region into boxes", max(0.5 * self.options.seconds, 1.0)
        if affords(name, count, entries, seconds, self._skipped.append):
            return branch_boxes(self.graph, self._goal(0.9 * self.options.seconds))
        return iter(())

    def _branch_boxes(self, boxes: Iterator[float | SteepPair], end: float) -> None:
        """Go on splitting the region of few inputs into boxes until so many seconds are spent."""
        while not (math.isinf(self._upper) or self._closed or self._late(end)):
            found = next(boxes, None)
            if found is None:
                return
            self._take(found, "branch and bound on boxes")

    def _take(self, found: float | SteepPair, method: str) -> None:
        """Take a bound of either side."""
        if isinstance(found, SteepPair):
            self._raise_lower(found, method)
        else:
            self._lower_upper(found, method)

    def _goal(self, end: float) -> Goal:
        options = self.options
        return Goal(
            options.norm,
            options.region,
            options.tolerance,
            lambda: self._lower,
            lambda: self._late(end),
        )

    def _outcome(self, interrupted: bool) -> Outcome:
        if math.isinf(self._upper):
            return Outcome.UNBOUNDED
        if self._closed:
            return Outcome.CLOSED
        if interrupted:
            return Outcome.INTERRUPTED
        return Outcome.BUDGET_SPENT if self._late(self.options.seconds) else Outcome.EXHAUSTED

    def _bracket(self, layers: tuple[LayerGain, ...], outcome: Outcome) -> Bracket:
        methods = {step.side: step.method for step in self._trace}
        return Bracket(
            lower=self._lower,
            upper=self._upper,
            norm=self.options.norm,
            lower_by=methods.get("lower", "nothing moved"),
            upper_by=methods.get("upper", "nothing finite"),
            witness=(self._witness.first, self._witness.second) if self._witness else None,
            trace=tuple(self._trace),
            layers=layers,
            outcome=outcome,
            assumptions=self._assumptions(),
            seconds=self._spent,
            notes=tuple(dict.fromkeys(self._skipped)),
        )

    def _starts(self, points: Tensor) -> Tensor:
        """Return the finite rows of the data and noisy copies, or points of the region."""
        generator = torch.Generator().manual_seed(self.options.seed)
        if self.options.region is not None:
            return sample(self.options.region, 512, generator)
        points = points.double()
        finite = points[torch.isfinite(points.flatten(1)).all(1)]
        if not len(finite):
            raise InvalidInput("example", "no row without NaN or infinity", "at least one")
        noise = torch.randn(finite.shape, generator=generator, dtype=torch.float64)
        return torch.cat([finite, finite + noise * (float(finite.std(correction=0)) or 1.0)])

    def _assumptions(self) -> tuple[str, ...]:
        norm, region = norm_name(self.options.norm), self.options.region
        where = "all inputs" if region is None else "all pairs of inputs in the region"
        about = (
            f"the bracket is about {where}, with the {norm} norm on inputs and outputs, flattened."
        )
        about = self.options.moves.meaning + about
        sentences = [
            about[0].upper() + about[1:],
            "It is about the exact real function of the stored weights, not about rounding in "
            "the network as executed.",
            "Parametrised weights are taken as the model computes them once, in its precision.",
        ]
        if any(node.op == "softplus" for node in self.graph.nodes):
            sentences.append("Softplus is log(1 + exp x), without torch's switch above 20.")
        return tuple(sentences)
