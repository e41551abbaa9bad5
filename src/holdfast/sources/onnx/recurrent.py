"""ONNX layers that go through a sequence, written out step by step: RNN, GRU and LSTM.

Sequences are [steps, 1, features] in the file, and [B, steps, features] here. Weights of both
directions are stacked along their first axis, and those of the gates along the second.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.sources.onnx.rows import Operand, RowValue, Static, settle

Step = Callable[[Tensor, Sequence[Tensor], Tensor, Tensor | None], list[Tensor]]
"""From the share of the input [B, gates], the state and the recurrent weights to a new state."""


def rnn(  # noqa: PLR0913 - the inputs and attributes of the operator
    x: RowValue,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    sequence_lens: Static = None,
    initial_h: Operand | None = None,
    *,
    hidden_size: int,
    direction: str = "forward",
    activations: list[str] | None = None,
) -> list[RowValue]:
    """Return all states and the last one of h' = tanh(W x + R h), or of its ReLU.

    Raises:
        ValueError: For another activation, or sequences of several lengths.
    """
    names = {*(activations or ["Tanh"])}
    if names not in ({"Tanh"}, {"Relu"}):
        raise ValueError(f"activations {activations}")
    curve = torch.tanh if names == {"Tanh"} else F.relu

    def step(share: Tensor, state: Sequence[Tensor], R: Tensor, b: Tensor | None) -> list[Tensor]:
        return [curve(share + F.linear(state[0], R, b))]

    weights = (weight, recurrence, bias)
    return _unrolled(step, x, weights, (initial_h,), (direction, sequence_lens, hidden_size))


def gru(  # noqa: PLR0913 - the inputs and attributes of the operator
    x: RowValue,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    sequence_lens: Static = None,
    initial_h: Operand | None = None,
    *,
    hidden_size: int,
    direction: str = "forward",
    activations: list[str] | None = None,
    linear_before_reset: int = 0,
) -> list[RowValue]:
    """Return all states and the last one of a gated recurrent unit; gates are z, r, h.

    Raises:
        ValueError: For other activations than the usual ones, or sequences of several lengths.
    """
    _check_usual(activations, ["Sigmoid", "Tanh"])

    def step(share: Tensor, state: Sequence[Tensor], R: Tensor, b: Tensor | None) -> list[Tensor]:
        (h,), k = state, 2 * hidden_size
        first, last = (None, None) if b is None else (b[:k], b[k:])
        gates = torch.sigmoid(share[:, :k] + F.linear(h, R[:k], first))
        z, r = gates[:, :hidden_size], gates[:, hidden_size:]
        if linear_before_reset:
            new = torch.tanh(share[:, k:] + r * F.linear(h, R[k:], last))
        else:
            new = torch.tanh(share[:, k:] + F.linear(r * h, R[k:], last))
        return [(1 - z) * new + z * h]

    weights = (weight, recurrence, bias)
    return _unrolled(step, x, weights, (initial_h,), (direction, sequence_lens, hidden_size))


def lstm(  # noqa: PLR0913, PLR0917 - the inputs and attributes of the operator
    x: RowValue,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    sequence_lens: Static = None,
    initial_h: Operand | None = None,
    initial_c: Operand | None = None,
    *,
    hidden_size: int,
    direction: str = "forward",
    activations: list[str] | None = None,
) -> list[RowValue]:
    """Return all states, the last one and the last cell of an LSTM; gates are i, o, f, c.

    Raises:
        ValueError: For other activations than the usual ones, or sequences of several lengths.
    """
    _check_usual(activations, ["Sigmoid", "Tanh", "Tanh"])

    def step(share: Tensor, state: Sequence[Tensor], R: Tensor, b: Tensor | None) -> list[Tensor]:
        h, cell = state
        total = share + F.linear(h, R, b)
        gates = torch.sigmoid(total[:, : 3 * hidden_size])
        i, o, f = gates.split(hidden_size, 1)
        cell = f * cell + i * torch.tanh(total[:, 3 * hidden_size :])
        return [o * torch.tanh(cell), cell]

    weights, states = (weight, recurrence, bias), (initial_h, initial_c)
    return _unrolled(step, x, weights, states, (direction, sequence_lens, hidden_size))


def _check_usual(activations: list[str] | None, usual: list[str]) -> None:
    if activations is not None and activations not in (usual, usual * 2):
        raise ValueError(f"activations {activations}")


def _unrolled(
    step: Step,
    x: RowValue,
    weights: tuple[Tensor, Tensor, Tensor | None],
    states: Sequence[Operand | None],
    settings: tuple[str, Static, int],
) -> list[RowValue]:
    """Return all states, and of each state the last one.

    Args:
        step: One step.
        x: [steps, 1, features] in the file.
        weights: Of the input, of the state, and both offsets, each [directions, ...].
        states: The first ones, [directions, 1, hidden]; None for zeros.
        settings: Direction, lengths of the sequences, and number of hidden units.

    Raises:
        ValueError: For a batch in the file, several lengths, or far too many steps.
    """
    direction, lengths, hidden = settings
    ways = {"forward": [1], "reverse": [-1], "bidirectional": [1, -1]}.get(direction, [])
    if lengths is not None or len(x.shape) != 3 or x.shape[1] != 1 or len(ways) != len(weights[0]):
        raise ValueError(f"direction {direction!r} of a sequence of shape {list(x.shape)}")
    if x.shape[0] > 2**10:  # every step becomes operations of its own
        raise ValueError(f"{x.shape[0]} steps, more than {2**10}")
    rows = x.free().squeeze(2)
    every, last = [], []
    for k, way in enumerate(ways):
        ahead, back = (None, None) if weights[2] is None else weights[2][k].chunk(2)
        shares = F.linear(rows, weights[0][k], ahead)
        state = [_first(each, k, rows, hidden) for each in states]
        found = []
        for t in range(x.shape[0])[::way]:
            state = step(shares[:, t], state, weights[1][k], back)
            found.append(state[0])
        every.append(torch.stack(found[::way], 1))
        last.append(state)
    ends = [torch.stack(each, 1) for each in zip(*last, strict=True)]
    results = [torch.stack(every, 2).unsqueeze(3), *(end.unsqueeze(2) for end in ends)]
    return [settle(each) for each in results]


def _first(state: Operand | None, way: int, rows: Tensor, hidden: int) -> Tensor:
    """Return the first state of one direction, [B, hidden]."""
    if isinstance(state, RowValue):
        return state.free()[:, way, 0]
    if state is None:
        return rows.new_zeros(rows.shape[0], hidden)
    return state[way].expand(rows.shape[0], -1)


RECURRENT: Mapping[str, Callable[..., list[RowValue]]] = {"RNN": rnn, "GRU": gru, "LSTM": lstm}
"""Functions by operator."""
