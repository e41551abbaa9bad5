"""Recurrent layers and cells, written out step by step.

A step is made of linear maps, sigmoids, tanh and products by entry of values that move: each gate
with what it lets through. A plain RNN has no gates.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from holdfast.graph.aten.affine import AFFINE
from holdfast.graph.aten.call import Builder, Call, Ref, Translate, Translation
from holdfast.graph.aten.layouts import rows_at, rows_first
from holdfast.graph.aten.wiring import WIRING
from holdfast.graph.reasons import MAX_STEPS, steps

aten = torch.ops.aten

State = Ref | Tensor
"""One part of a state: [N, units], or a constant [1, units]."""

Step = Callable[[Builder, Call, Ref, list[State], Sequence[Any]], list[State]]
"""From one input, the state and the weights of a layer to the next state."""


def _lstm_step(
    b: Builder, call: Call, x: Ref, state: list[State], weights: Sequence[Any]
) -> list[State]:
    """Return h' = o tanh(c') and c' = f c + i g; gates are i, f, g, o."""
    h, c = state
    projection, n = weights[4], c.shape[-1]
    total = _added(b, call, *_shares(b, call, x, h, weights))
    gates = _curve(b, call, "sigmoid", _cut(b, call, total, 0, 2 * n))
    i, f = _cut(b, call, gates, 0, n), _cut(b, call, gates, n, 2 * n)
    g = _curve(b, call, "tanh", _cut(b, call, total, 2 * n, 3 * n))
    o = _curve(b, call, "sigmoid", _cut(b, call, total, 3 * n, 4 * n))
    c = _added(b, call, cast(Ref, _times(b, call, i, g)), _times(b, call, f, c))
    h = cast(Ref, _times(b, call, o, _curve(b, call, "tanh", c)))
    return [h if projection is None else _linear(b, call, h, projection, None), c]


def _gru_step(
    b: Builder, call: Call, x: Ref, state: list[State], weights: Sequence[Any]
) -> list[State]:
    """Return h' = (1 - z) n + z h with n = tanh(x_n + r h_n); gates are r, z, n.

    Torch computes n + z (h - n), of which bounds are up to a fifth wider.
    """
    (h,) = state
    n = h.shape[-1]
    ahead, back = _shares(b, call, x, h, weights)
    gates = _added(b, call, _cut(b, call, ahead, 0, 2 * n), _part(b, call, back, 0, 2 * n))
    gates = _curve(b, call, "sigmoid", gates)
    r, z = _cut(b, call, gates, 0, n), _cut(b, call, gates, n, 2 * n)
    kept = _times(b, call, r, _part(b, call, back, 2 * n, 3 * n))
    new = _curve(b, call, "tanh", _added(b, call, _cut(b, call, ahead, 2 * n, 3 * n), kept))
    rest = _do(b, call, aten.rsub.Scalar, z.shape, z, 1.0, 1.0)
    return [_added(b, call, cast(Ref, _times(b, call, rest, new)), _times(b, call, z, h))]


def _rnn_step(curve: str) -> Step:
    """Return h' = tanh(W x + R h), or of its ReLU."""

    def step(
        b: Builder, call: Call, x: Ref, state: list[State], weights: Sequence[Any]
    ) -> list[State]:
        total = _added(b, call, *_shares(b, call, x, state[0], weights))
        return [_curve(b, call, curve, total)]

    return step


def _shares(
    b: Builder, call: Call, x: Ref, h: State, weights: Sequence[Any]
) -> tuple[Ref, State | None]:
    """Return what input and state add to the gates; None where the state adds nothing."""
    w_input, w_state, b_input, b_state = weights[:4]
    ahead = _linear(b, call, x, w_input, b_input)
    if isinstance(h, Tensor):
        if not bool(h.any()):
            return ahead, b_state
        h = b.constant(h, call)
    return ahead, _linear(b, call, h, w_state, b_state)


def _do(b: Builder, call: Call, target: object, shape: Sequence[int], *args: object) -> Ref:
    """Translate another call in the place of this one."""
    rules = WIRING if target in WIRING else AFFINE
    result = rules[target](b, dataclasses.replace(call, args=args, shape=tuple(shape)))
    return cast(Ref, result)


def _linear(b: Builder, call: Call, x: Ref, weight: Tensor, bias: Tensor | None) -> Ref:
    return _do(b, call, aten.linear.default, weight.shape[:1], x, weight, bias)


def _curve(b: Builder, call: Call, op: str, x: Ref) -> Ref:
    return b.emit(op, [x], call, x.shape)


def _cut(b: Builder, call: Call, x: Ref, start: int, end: int) -> Ref:
    return _do(b, call, aten.slice.Tensor, (end - start,), x, -1, start, end, 1)


def _part(b: Builder, call: Call, x: State | None, start: int, end: int) -> State | None:
    """Cut entries out of what may be a constant, or nothing."""
    if x is None:
        return None
    return _cut(b, call, x, start, end) if isinstance(x, Ref) else x[..., start:end]


def _added(b: Builder, call: Call, x: Ref, other: State | None) -> Ref:
    """Add what may be a constant, or nothing."""
    if other is None or (isinstance(other, Tensor) and not bool(other.any())):
        return x
    return _do(b, call, aten.add.Tensor, x.shape, x, other, 1)


def _times(b: Builder, call: Call, gate: Ref, other: State | None) -> State | None:
    """Multiply by what may be a constant, or nothing."""
    if other is None or (isinstance(other, Tensor) and not bool(other.any())):
        return None
    return _do(b, call, aten.mul.Tensor, gate.shape, gate, other)


def _layer(step: Step) -> Translate:
    """Translate a call that takes all layers through a whole sequence."""

    def translate(b: Builder, call: Call) -> Translation:
        x, first, weights, biased, layers, _, _, both, batch_first = call.args
        ways = 1 + both
        given = first if isinstance(first, list) else [first]
        turned = rows_first(b, call, x) if isinstance(x, Ref) else None
        if turned is None or any(isinstance(weight, Ref) for weight in weights):
            return None
        rows, place = turned
        fits = len(rows.shape) == 2 and steps(call.args, rows) <= MAX_STEPS
        if not fits or place != (0 if batch_first else 1):
            return None
        columns = _columns(b, call, rows)
        states = [_first_states(b, call, part) for part in given]
        if any(part is None for part in states):
            return None
        ends: list[list[State]] = []
        for _ in range(layers):
            found = []
            for way in range(ways):
                own = _one_layer(weights, biased, len(ends), layers * ways)
                state = [cast(Sequence[State], part)[len(ends)] for part in states]
                outputs, end = _through(b, call, step, columns[:: 1 - 2 * way], state, own)
                found.append(outputs[:: 1 - 2 * way])
                ends.append(end)
            columns = [_joined(b, call, parts, 0) for parts in zip(*found, strict=True)]
        every = rows_at(b, call, _joined(b, call, columns, 1), place)
        last = [
            rows_at(b, call, _joined(b, call, cast(Sequence[Ref], end), 1), 1)
            for end in zip(*ends, strict=True)
        ]
        return [every, *last]

    return translate


def _through(
    b: Builder,
    call: Call,
    step: Step,
    columns: Sequence[Ref],
    state: list[State],
    weights: Sequence[Any],
) -> tuple[list[Ref], list[State]]:
    """Return the outputs of one layer in one direction, and its last state."""
    outputs = []
    for column in columns:
        state = step(b, call, column, state, weights)
        outputs.append(cast(Ref, state[0]))
    return outputs, state


def _one_layer(weights: Sequence[Any], biased: bool, k: int, count: int) -> Sequence[Any]:
    """Return weights of input and state, both biases and the projection; None for what is not."""
    each = len(weights) // count
    own = list(weights[k * each : (k + 1) * each])
    if not biased:
        own[2:2] = [None, None]
    return [*own, None][:5]


def _columns(b: Builder, call: Call, rows: Ref) -> list[Ref]:
    """Return the inputs of all steps."""
    return [_do(b, call, aten.select.int, rows.shape[1:], rows, 1, t) for t in range(rows.shape[0])]


def _first_states(b: Builder, call: Call, given: object) -> Sequence[State] | None:
    """Return the first state of every layer and direction."""
    if isinstance(given, Tensor):
        return list(given)
    turned = rows_first(b, call, given) if isinstance(given, Ref) else None
    return _columns(b, call, turned[0]) if turned is not None and turned[1] == 1 else None


def _joined(b: Builder, call: Call, parts: Sequence[Ref], new: int) -> Ref:
    """Put rows [N, C] side by side, or into sequences [N, T, C] where the dimension is `new`."""
    if new:
        shape = (len(parts), *parts[0].shape)
        return _do(b, call, aten.stack.default, shape, list(parts), 1)
    if len(parts) == 1:
        return parts[0]
    return _do(b, call, aten.cat.default, (sum(p.shape[0] for p in parts),), list(parts), 1)


def _cell(step: Step) -> Translate:
    """Translate one step of one layer."""

    def translate(b: Builder, call: Call) -> Translation:
        x, first, *weights = call.args
        state = first if isinstance(first, list) else [first]
        if any(isinstance(weight, Ref) for weight in weights) or not isinstance(x, Ref):
            return None
        if len(x.shape) != 1:
            return None
        end = step(b, call, x, state, [*weights, None])
        return cast(Translation, end if isinstance(first, list) else end[0])

    return translate


RECURRENT: Mapping[object, Translate] = {
    aten.lstm.input: _layer(_lstm_step),
    aten.gru.input: _layer(_gru_step),
    aten.rnn_tanh.input: _layer(_rnn_step("tanh")),
    aten.rnn_relu.input: _layer(_rnn_step("relu")),
    aten.lstm_cell.default: _cell(_lstm_step),
    aten.gru_cell.default: _cell(_gru_step),
    aten.rnn_tanh_cell.default: _cell(_rnn_step("tanh")),
    aten.rnn_relu_cell.default: _cell(_rnn_step("relu")),
}
"""Translations by ATen overload."""
