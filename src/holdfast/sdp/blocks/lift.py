"""From a part of a graph to its block form: one normal form for every frequency of a lattice.

A part without convolutions has a lattice of one place, and one matrix: every entry is by itself.

On the lattice (`lattice`) every image stands among zeros. An activation whose slopes may be 0 does
not tell the zeros around an image from other values there, so that cutting out an image and
surrounding it with zeros again is part of the activation: for differences of two inputs a block is
at most what it is on the whole lattice, with slopes between 0 and the steepest. There multipliers
that are the same at all places leave one matrix for every frequency.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from holdfast.errors import Unsupported
from holdfast.graph.ir import Graph, Node
from holdfast.graph.walk import Reading, read
from holdfast.ops import OPS, Kind, rules
from holdfast.rounding import gamma
from holdfast.sdp.blocks.lattice import Factor, half_of_frequencies, symbol
from holdfast.sdp.blocks.plan import NAME, Plan, axes_of


@dataclass(frozen=True)
class BlockForm:
    """`z = B (x, v)`, `y = C (x, v)`, `v` between `low z` and `high z`, at every frequency.

    Attributes:
        B: [F, units, inputs + units], complex128; float64 where there is one place.
        C: [F, outputs, inputs + units].
        B_size: [units, inputs + units]: sums of absolute coefficients, at least |B|.
        C_size: [outputs, inputs + units].
        error: Every entry is within this times its size of the exact one.
        low: Smallest slope of every unit.
        high: Largest slope.
        inputs: Number of inputs.
        before: Channel of every input.
        after: Channel of every output.
    """

    B: Tensor
    C: Tensor
    B_size: Tensor
    C_size: Tensor
    error: float
    low: Tensor
    high: Tensor
    inputs: int
    before: Tensor
    after: Tensor

    @property
    def units(self) -> int:
        """Number of activations for each place of the lattice."""
        return len(self.low)

    @property
    def frequencies(self) -> int:
        """Number of frequencies."""
        return len(self.B)

    def at(self, frequencies: Tensor) -> "BlockForm":
        """Return the form at some of the frequencies."""
        return replace(self, B=self.B[frequencies], C=self.C[frequencies])


@dataclass(frozen=True)
class _Signal:
    """A value as a linear map of inputs and units.

    Attributes:
        rows: [F, entries, inputs + units so far].
        size: [entries, inputs + units so far].
        error: Relative to `size`.
        factor: Pixels for each place of the lattice; None where there is one number per channel.
        spilled: Whether it may be other than 0 around the image.
    """

    rows: Tensor
    size: Tensor
    error: float
    factor: Factor | None
    spilled: bool


def block_form(part: Graph, laid: Plan) -> BlockForm:
    """Return the block form of a part of a graph.

    Args:
        part: In float64.
        laid: Its plan.

    Raises:
        Unsupported: When an operation has no rule, or weights are too extreme.
    """
    return _BlockLift(part, laid).form()


class _BlockLift:
    """Walks a part of a graph and records its activations.

    Args:
        part: In float64.
        laid: Its plan.
    """

    def __init__(self, part: Graph, laid: Plan) -> None:
        self.part, self.laid = part, laid
        self.frequencies = half_of_frequencies(laid.places)
        self.dtype = torch.complex128 if laid.places else torch.float64
        self._activated: list[tuple[_Signal, float, float]] = []
        self._columns = laid.inputs

    def form(self) -> BlockForm:
        """Return the form of the whole part."""
        table = rules(
            {
                Kind.AFFINE: self._affine,
                Kind.WIRING: lambda node, signals: signals[0],  # the plan lets reshape pass alone
                Kind.SUM: self._add,
                Kind.SCALAR: self._activate,
            },
            {},
        )
        entry, output = self.part.perturbed_input, self.part[self.part.output]
        factor = self.laid.factors[entry.name]
        start = self._identity(0, self.laid.inputs, factor)
        signals = read(self.part, Reading(NAME, table, {}), {entry.name: start})
        last = self._widen(signals[output.name])
        wide = [self._widen(signal) for signal, _, _ in self._activated]
        empty = torch.zeros(0, self._columns, dtype=torch.float64)
        rows = [empty.to(self.dtype).expand(len(self.frequencies), -1, -1)]
        counts = [len(signal.size) for signal in wide]
        error = max([last.error, *[signal.error for signal in wide]])
        form = BlockForm(
            torch.cat([*rows, *[signal.rows for signal in wide]], 1),
            last.rows,
            torch.cat([empty, *[signal.size for signal in wide]]),
            last.size,
            error,
            _repeated([low for _, low, _ in self._activated], counts),
            _repeated([high for _, _, high in self._activated], counts),
            self.laid.inputs,
            _channels(entry.shape, self.laid.inputs),
            _channels(output.shape, len(last.size)),
        )
        sizes = torch.cat([form.B_size.flatten(), form.C_size.flatten()])
        sizes = sizes[sizes != 0]
        if not bool(((sizes > 1e-60) & (sizes < 1e60)).all()):
            raise Unsupported(NAME, [output.obstacle("weights too extreme for it")])
        return form

    def _identity(self, first: int, count: int, factor: Factor | None) -> _Signal:
        """Return the columns from the first one on, themselves."""
        size = torch.zeros(count, self._columns, dtype=torch.float64)
        size[:, first : first + count] = torch.eye(count, dtype=torch.float64)
        rows = size.to(self.dtype).expand(len(self.frequencies), -1, -1)
        return _Signal(rows, size, 0.0, factor, False)

    def _widen(self, signal: _Signal) -> _Signal:
        missing = self._columns - signal.size.shape[1]
        if not missing:
            return signal
        rows, size = (
            torch.nn.functional.pad(part, (0, missing)) for part in (signal.rows, signal.size)
        )
        return _Signal(rows, size, signal.error, signal.factor, signal.spilled)

    def _affine(self, node: Node, signals: Sequence[_Signal]) -> _Signal:
        (signal,) = signals
        source = self.part[node.inputs[0]]
        if node.facts.by_entry:
            return self._scaled(node, signal)
        if node.op == "conv":
            return self._convolved(node, signal)
        if node.op == "linear":
            weight = node.params["weight"].double()
            return self._mapped(
                signal, weight.to(self.dtype), weight.abs(), 0.0, self.laid.factors[node.name]
            )
        # The mean over p pixels of a channel is 1 / sqrt(p) of a map that lengthens nothing.
        share = math.prod(source.shape[1:]) ** -0.5
        error = (1.0 + signal.error) * (1.0 + gamma(8)) - 1.0 + gamma(8)
        return _Signal(signal.rows * share, signal.size * share, error, None, True)

    def _convolved(self, node: Node, signal: _Signal) -> _Signal:
        if signal.spilled:
            raise Unsupported(NAME, [node.obstacle("reads a convolution with nothing between")])
        geometry = node.params["geometry"]
        axes = axes_of(node, self.laid.factors)
        values, sizes, error = symbol(
            node.params["weight"].double(),
            geometry.groups,
            axes,
            self.frequencies,
            self.laid.places,
        )
        return self._mapped(signal, values, sizes, error, self.laid.factors[node.name])

    def _mapped(
        self, signal: _Signal, values: Tensor, sizes: Tensor, error: float, factor: Factor | None
    ) -> _Signal:
        """Apply matrices [F, m, n] with sums of absolute coefficients [m, n]."""
        count = sizes.shape[1]
        size = (sizes @ signal.size) * (1.0 + 2.0 * gamma(count + 4))
        total = (1.0 + error) * (1.0 + signal.error) * (1.0 + gamma(4 * (count + 4))) - 1.0
        return _Signal(values @ signal.rows, size, total + gamma(8), factor, True)

    def _scaled(self, node: Node, signal: _Signal) -> _Signal:
        """Multiply every channel by its number."""
        op, params = node.facts.linear(node.params)
        ones = torch.ones(1, *node.shape, dtype=torch.float64)
        factor = OPS[op].run([ones], params)
        channels = node.shape[0] if self.laid.places else factor.numel()
        factor = factor.reshape(channels, -1)
        if not bool((factor == factor[:, :1]).all()):
            raise Unsupported(NAME, [node.obstacle("pixels with numbers of their own")])
        each = factor[:, 0].repeat_interleave(len(signal.size) // len(factor))[:, None]
        size = signal.size * each.abs() * (1.0 + gamma(16))
        error = (1.0 + signal.error) * (1.0 + gamma(16)) - 1.0 + gamma(8)
        return _Signal(signal.rows * each, size, error, signal.factor, signal.spilled)

    def _add(self, node: Node, signals: Sequence[_Signal | None]) -> _Signal:
        wide = [self._widen(signal) for signal in signals if signal is not None]
        rows, size = wide[0].rows, wide[0].size
        for signal in wide[1:]:
            rows, size = rows + signal.rows, size + signal.size
        error = (1.0 + max(signal.error for signal in wide)) * (1.0 + gamma(len(wide) + 4)) - 1.0
        spilled = any(signal.spilled for signal in wide)
        inflated = size * (1.0 + gamma(len(wide) + 4))
        return _Signal(rows, inflated, error + gamma(8), wide[0].factor, spilled)

    def _activate(self, node: Node, signals: Sequence[_Signal]) -> _Signal:
        (signal,) = signals
        low, high = node.facts.slopes(node.params)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise Unsupported(NAME, [node.obstacle("no finite slopes")])
        if self.laid.places:  # what surrounds an image does not move
            low, high = min(low, 0.0), max(high, 0.0)
        self._activated.append((signal, low, high))
        first, count = self._columns, len(signal.size)
        self._columns += count
        return self._identity(first, count, signal.factor)


def _repeated(values: Sequence[float], counts: Sequence[int]) -> Tensor:
    """Return every value so many times."""
    return torch.tensor(values, dtype=torch.float64).repeat_interleave(
        torch.tensor(counts, dtype=torch.long)
    )


def _channels(shape: Sequence[int], rows: int) -> Tensor:
    """Return the channel of every row of a signal."""
    return torch.arange(shape[0]).repeat_interleave(rows // shape[0])
