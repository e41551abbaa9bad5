"""Write a network down as a normal form, one operation at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.rounding import gamma
from holdfast.sdp.form import (
    HEADROOM,
    Array,
    NormalForm,
    multiply,
    norm_rows,
)


@dataclass(frozen=True)
class Signal:
    """A vector inside the network as a linear map of the coordinates seen so far.

    Attributes:
        rows: Shape (size, inputs + units so far).
        error: Rounding error of the rows, as in `NormalForm`.
    """

    rows: Array
    error: Array


class Tape:
    """Records linear maps and activations, and returns the normal form of the whole.

    >>> tape = Tape(2)
    >>> hidden = tape.activate(tape.linear(np.eye(2), tape.input), 0.0, 1.0)
    >>> tape.normal_form(tape.add(hidden, tape.input)).B.shape
    (2, 4)

    Args:
        inputs: Number of input coordinates.
    """

    def __init__(self, inputs: int) -> None:
        self.inputs = inputs
        self.input = Signal(np.eye(inputs), np.zeros((inputs, 1)))
        self._activated: list[tuple[Signal, Array, Array]] = []

    @property
    def units(self) -> int:
        """Number of activations recorded so far."""
        return sum(len(signal.rows) for signal, _, _ in self._activated)

    def linear(self, weight: Array, signal: Signal) -> Signal:
        """Return `weight @ signal`; a selection or a sum of single coordinates stays exact."""
        weight = np.asarray(weight, dtype=np.float64)
        rows = multiply(weight, signal.rows)
        error = multiply(np.abs(weight), signal.error) * HEADROOM
        if ((signal.rows != 0).sum(0) > 1).any() or not np.isin(signal.rows, (0.0, 1.0)).all():
            sizes = multiply(np.abs(weight), norm_rows(signal.rows, self.inputs))
            error = (error + gamma(weight.shape[1] + 2) * sizes) * HEADROOM
        return Signal(rows, error)

    def activate(self, signal: Signal, low: float | Array, high: float | Array) -> Signal:
        """Return what comes out of activations with slopes between `low` and `high`."""
        size, before = len(signal.rows), self.units
        least, most = np.zeros(size) + low, np.zeros(size) + high
        self._activated.append((signal, least, most))
        rows = np.zeros((size, self.inputs + before + size))
        rows[:, self.inputs + before :] = np.eye(size)
        return Signal(rows, np.zeros((size, 1 + before + size)))

    def add(self, left: Signal, right: Signal) -> Signal:
        """Return the sum of two signals, as a skip connection makes it."""
        left, right = self._widen(left), self._widen(right)
        overlap = (left.rows != 0) & (right.rows != 0)
        sizes = norm_rows(np.where(overlap, np.abs(left.rows) + np.abs(right.rows), 0), self.inputs)
        error = (left.error + right.error) * HEADROOM + gamma(2) * sizes
        return Signal(left.rows + right.rows, error)

    def concat(self, parts: Sequence[Signal]) -> Signal:
        """Return the signals one below the other."""
        wide = [self._widen(part) for part in parts]
        return Signal(np.vstack([w.rows for w in wide]), np.vstack([w.error for w in wide]))

    def normal_form(self, output: Signal) -> NormalForm:
        """Return the form of the net that ends in `output`."""
        output = self._widen(output)
        width = self.inputs + self.units
        wide = [self._widen(signal) for signal, _, _ in self._activated]
        B = np.vstack([np.zeros((0, width)), *[w.rows for w in wide]])
        B_error = np.vstack([np.zeros((0, 1 + self.units)), *[w.error for w in wide]])
        low = np.concatenate([np.zeros(0), *[low for _, low, _ in self._activated]])
        high = np.concatenate([np.zeros(0), *[high for _, _, high in self._activated]])
        exact = not (B_error.any() or output.error.any())
        bounds = (None, None) if exact else (B_error, output.error)
        return NormalForm(B, output.rows, low, high, self.inputs, *bounds)

    def _widen(self, signal: Signal) -> Signal:
        missing = self.inputs + self.units - signal.rows.shape[1]
        pad = ((0, 0), (0, missing))
        return Signal(np.pad(signal.rows, pad), np.pad(signal.error, pad))


def feed_forward(weights: Sequence[Array], slopes: Sequence[tuple[float, float]]) -> NormalForm:
    """Return the form of `W_l act(... act(W_1 x))`.

    Args:
        weights: One matrix per layer, first layer first.
        slopes: The slope range of every activation, one less than the weights.

    Returns:
        The form, not yet reduced.
    """
    tape = Tape(np.shape(weights[0])[1])
    signal = tape.input
    for weight, (low, high) in zip(weights[:-1], slopes, strict=True):
        signal = tape.activate(tape.linear(weight, signal), low, high)
    return tape.normal_form(tape.linear(weights[-1], signal))


def residual(
    blocks: Sequence[tuple[Array, Array]], slopes: Sequence[tuple[float, float]], last: Array
) -> NormalForm:
    """Return the form of `last (I + V_k act W_k) ... (I + V_1 act W_1) x`.

    Args:
        blocks: Pairs (W, V), first block first.
        slopes: The slope range of every block.
        last: The output layer.

    Returns:
        The form, not yet reduced.
    """
    tape = Tape(np.shape(blocks[0][0])[1])
    signal = tape.input
    for (inner, outer), (low, high) in zip(blocks, slopes, strict=True):
        hidden = tape.activate(tape.linear(inner, signal), low, high)
        signal = tape.add(signal, tape.linear(outer, hidden))
    return tape.normal_form(tape.linear(last, signal))


def jacobian(form, slopes: np.ndarray) -> np.ndarray:
    """Return the Jacobian of a form for fixed slopes, unit by unit."""
    d = form.inputs
    v = np.zeros((form.units, d))
    for i in range(form.units):
        v[i] = slopes[i] * (form.B[i, :d] + form.B[i, d:] @ v)
    return form.C[:, :d] + form.C[:, d:] @ v
