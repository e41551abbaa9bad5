"""Recurrent layers and cells, written out step by step, beside what torch makes of them."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.brackets.gain import gain_upper
from holdfast.graph.capture import capture, captured
from holdfast.graph.ir import Graph
from holdfast.graph.walk import run

Forward = Callable[[nn.Module, Tensor], Tensor]


class Of(nn.Module):
    """What a function makes of one part, in eval mode."""

    def __init__(self, part: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.part, self.function = part, forward
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.part, x)


class Every(nn.Module):
    """The results of all parts, side by side."""

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x).flatten(1) for part in self.parts.values()], 1)


def lstm(**settings: object) -> nn.Module:
    return nn.LSTM(3, 4, **settings)  # pyright: ignore[reportArgumentType]


def gru(**settings: object) -> nn.Module:
    return nn.GRU(3, 4, **settings)  # pyright: ignore[reportArgumentType]


def rnn(**settings: object) -> nn.Module:
    return nn.RNN(3, 4, **settings)  # pyright: ignore[reportArgumentType]


def steps(part: nn.Module, x: Tensor) -> Tensor:
    """Return all outputs of a layer that has the batch first."""
    return part(x)[0]


def steps_first(part: nn.Module, x: Tensor) -> Tensor:
    """Return the last output of a layer that has the steps first."""
    return part(x.transpose(0, 1))[0][-1]


def hidden(part: nn.Module, x: Tensor) -> Tensor:
    """Return the last states of all layers and directions, side by side."""
    return part(x)[1].permute(1, 0, 2).reshape(x.shape[0], -1)


def cells(part: nn.Module, x: Tensor) -> Tensor:
    """Run an LSTM cell, a GRU cell and both plain cells through a sequence, by the mean."""
    h = c = x.new_zeros(x.shape[0], 4)
    g = p = q = None
    found = []
    for t in range(x.shape[1]):
        h, c = part[0](x[:, t], (h, c))
        g = part[1](h, g)
        p = part[2](g, p)
        q = part[3](p, q)
        found.append(q)
    return torch.stack(found).mean(0)


def from_constants(part: nn.Module, x: Tensor) -> Tensor:
    """Start where a constant says."""
    first = torch.linspace(-1.0, 1.0, 4).expand(1, x.shape[0], 4)
    return torch.cat([part[0](x, (first, -first))[0], part[1](x, first)[0]], 2)


def handed_over(part: nn.Module, x: Tensor) -> Tensor:
    """Start one layer where another one ended."""
    _, (h, c) = part[0](x)
    _, (end, _) = part[1](x.flip(1), (h, c))
    return torch.cat([h[-1], end[0], part[2](x, c)[0].mean(1)], 1)


PARTS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: Of(lstm(batch_first=True), steps),
    "lstm, last step": lambda: Of(lstm(batch_first=True), lambda m, x: m(x)[0][:, -1]),
    "lstm, last state": lambda: Of(lstm(batch_first=True), lambda m, x: m(x)[1][0][-1]),
    "lstm, last cell": lambda: Of(lstm(batch_first=True), lambda m, x: m(x)[1][1].squeeze(0)),
    "lstm, steps first": lambda: Of(lstm(), steps_first),
    "lstm, mean over steps": lambda: Of(
        lstm(num_layers=2), lambda m, x: torch.relu(m(x.permute(1, 0, 2))[0]).mean(dim=0)
    ),
    "lstm, steps first and back": lambda: Of(
        lstm(bidirectional=True), lambda m, x: m(x.transpose(1, 0))[0].transpose(0, 1)
    ),
    "lstm, everything": lambda: Of(
        lstm(num_layers=2, bidirectional=True, proj_size=2, dropout=0.5, batch_first=True), steps
    ),
    "lstm, both ends": lambda: Of(
        lstm(bidirectional=True, batch_first=True),
        lambda m, x: torch.cat([(h := m(x)[1][0])[-2], h[-1]], dim=1),
    ),
    "lstm, no bias": lambda: Of(lstm(bias=False, batch_first=True), steps),
    "gru": lambda: Of(gru(batch_first=True), steps),
    "gru, no bias": lambda: Of(gru(bias=False, batch_first=True), steps),
    "gru, everything": lambda: Of(
        gru(num_layers=2, bidirectional=True, dropout=0.5, batch_first=True), hidden
    ),
    "rnn": lambda: Of(rnn(batch_first=True), steps),
    "rnn, relu": lambda: Of(rnn(nonlinearity="relu", num_layers=2), steps_first),
    "cells": lambda: Of(
        nn.ModuleList(
            [
                nn.LSTMCell(3, 4),
                nn.GRUCell(4, 4, bias=False),
                nn.RNNCell(4, 4),
                nn.RNNCell(4, 4, nonlinearity="relu"),
            ]
        ),
        cells,
    ),
    "first states that are constants": lambda: Of(
        nn.ModuleList([lstm(batch_first=True), gru(batch_first=True)]), from_constants
    ),
    "first states that move": lambda: Of(
        nn.ModuleList([lstm(batch_first=True), lstm(batch_first=True), gru(batch_first=True)]),
        handed_over,
    ),
}


def outside(graph: Graph) -> list[str]:
    return [f"{node.path}: {node.title}" for node in graph.nodes if node.op == "aten"]


FEW = ("lstm, steps first and back", "lstm, last state", "gru, everything", "cells")


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    ("names", "length"),
    [pytest.param(FEW, 2, id="few"), pytest.param(PARTS, 3, id="all", marks=pytest.mark.slow)],
)
def test_every_way_to_write_a_recurrent_layer_is_written_out(
    names: Sequence[str], length: int
) -> None:
    torch.manual_seed(0)
    model = Every({name: PARTS[name]() for name in names})
    for part in model.parameters():  # away from the zeros that some biases start with
        nn.init.normal_(part, std=0.7)
    graph = capture(model, torch.randn(1, length, 3))
    assert outside(graph) == []
    for rows in (1, 2, 9):
        x = 2.0 * torch.randn(rows, length, 3)
        torch.testing.assert_close(run(graph, x), model(x))
    assert "parts.lstm, last state.part" in graph.layers


@pytest.mark.parametrize("shape", [(1, 3), (7, 1)], ids=["one step", "one feature"])
def test_sequences_of_one_step_and_of_one_feature(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    part = nn.LSTM(shape[1], 1, num_layers=2, batch_first=True).double()
    model, x = Of(part, steps), torch.randn(3, *shape, dtype=torch.float64)
    graph = capture(model, x)
    assert outside(graph) == []
    torch.testing.assert_close(run(graph, x), model(x))


def test_what_mixes_rows_is_refused() -> None:
    mixed = Of(lstm(), lambda m, x: m(x)[0])  # takes the rows for steps
    with pytest.raises(holdfast.Unsupported, match="fixes the batch size"):
        capture(mixed, torch.randn(2, 5, 3))


def test_refusals_say_what_is_true() -> None:
    torch.manual_seed(0)
    model = Of(lstm(batch_first=True, dropout=0.0), lambda m, x: m(x)[0][:, -1])
    x, y = torch.randn(2, 3, 3), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(holdfast.Unsupported) as refused:
        holdfast.certify(model, x, y, method="global")
    (obstacle,) = refused.value.obstacles
    assert (obstacle.path, obstacle.op) == ("part", "product")
    assert "product of values that both move" in obstacle.why
    assert "method='local'" in obstacle.advice


def test_a_long_sequence_is_executed_and_not_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for home in ("reasons", "aten.recurrent"):  # torch.export takes minutes for a thousand steps
        monkeypatch.setattr(f"holdfast.graph.{home}.MAX_STEPS", 8)
    part = nn.GRU(1, 2, num_layers=2, bidirectional=True, batch_first=True)
    model, x = Of(part, lambda m, x: m(x)[0][:, -1]), torch.randn(2, 3, 1)
    with captured(model, x) as graph:
        assert len(graph.nodes) < 10
        with pytest.raises(holdfast.Unsupported, match=r"takes 12 steps .*; 8 are written out"):
            gain_upper(graph, 2.0)
