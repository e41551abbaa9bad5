"""Certificates of recurrent layers: no point inside a certified ball changes the class."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import holdfast


class Reader(nn.Module):
    """A recurrent layer, read at its last step, by the mean over steps, or at every step."""

    def __init__(self, layer: nn.Module, width: int, reading: str) -> None:
        super().__init__()
        self.layer, self.reading = layer, reading
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        states = self.layer(x)[0]
        if self.reading == "last":
            return self.head(states[:, -1])
        if self.reading == "mean":
            return self.head(states.mean(1))
        return self.head(states).amax(1)


class Cell(nn.Module):
    """A GRU cell and an LSTM cell in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.GRUCell(2, 3), nn.LSTMCell(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = g = c = x.new_zeros(x.shape[0], 3)
        for t in range(x.shape[1]):
            h = self.first(x[:, t], h)
            g, c = self.second(h, (g, c))
        return self.head(g)


def drawn(model: nn.Module, spread: float) -> nn.Module:
    """Return a model in float64 whose weights are drawn anew."""
    torch.manual_seed(3)
    for part in model.double().parameters():
        nn.init.normal_(part, std=spread)
    return model.eval()


def inside(x: Tensor, radius: Tensor, norm: str, count: int) -> Iterator[Tensor]:
    """Return points of balls around rows, most of them close to the surface, corners among them."""
    wide = radius.clamp(max=1e6).reshape(-1, *[1] * (x.dim() - 1)) * (1.0 - 1e-9)
    for k in range(count):
        step = torch.randn_like(x)
        if norm == "linf":
            step = step.sign() if k % 2 else 2.0 * torch.rand_like(x) - 1.0
        else:
            step = step / step.flatten(1).norm(dim=1).reshape(wide.shape)
        yield x + wide * step * (1.0 if k % 3 else float(torch.rand(())))


def check(model: nn.Module, x: Tensor, norm: str, count: int) -> Tensor:
    """Certify rows, hold the balls against points inside and an attack, and return the radii."""
    with torch.no_grad():
        labels = model(x).argmax(1)
    radius = holdfast.certify(model, x, labels, norm=norm, method="local").radius
    with torch.no_grad():
        for points in inside(x, radius, norm, count):
            assert torch.equal(model(points).argmax(1)[radius > 0], labels[radius > 0])
    return radius


def test_points_in_certified_balls_keep_their_class() -> None:
    model = drawn(Reader(nn.LSTM(2, 2, batch_first=True), 2, "last"), 1.0)
    radius = check(model, torch.randn(3, 2, 2, dtype=torch.float64), "linf", 500)
    assert bool((radius > 0).all())


NETS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: Reader(nn.LSTM(2, 3, batch_first=True), 3, "last"),
    "gru both ways": lambda: Reader(nn.GRU(2, 2, batch_first=True, bidirectional=True), 4, "mean"),
    "projected": lambda: Reader(nn.LSTM(2, 3, 2, batch_first=True, proj_size=2), 2, "every"),
    "rnn": lambda: Reader(nn.RNN(2, 3, batch_first=True, nonlinearity="relu"), 3, "every"),
    "cells": Cell,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", NETS)
def test_many_points_in_certified_balls_keep_their_class(name: str, norm: str) -> None:
    radius = check(drawn(NETS[name](), 0.8), torch.randn(4, 3, 2, dtype=torch.float64), norm, 2000)
    assert bool((radius > 0).all())


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1e-150, 1e-3, 30.0, 1e4, 1e150])
@pytest.mark.parametrize("name", ["lstm", "cells"])
def test_extreme_weights_prove_nothing_wrong(name: str, spread: float) -> None:
    check(drawn(NETS[name](), spread), torch.randn(4, 3, 2, dtype=torch.float64), "l2", 500)


@pytest.mark.slow
def test_constants_on_a_ball_hold_between_points_in_it() -> None:
    model = drawn(Reader(nn.GRU(2, 3, batch_first=True), 3, "last"), 1.0)
    x = torch.randn(1, 3, 2, dtype=torch.float64)
    ball = holdfast.Ball(x[0], 0.3)
    bracket = holdfast.lipschitz(model, x, region=ball, seconds=1.0)
    spread = torch.full((1,), 0.3, dtype=torch.float64)
    with torch.no_grad():
        for left, right in zip(
            inside(x, spread, "l2", 500), inside(x, spread, "l2", 500), strict=True
        ):
            gap = (model(left) - model(right)).norm()
            assert float(gap) <= bracket.upper * float((left - right).norm())


def test_a_plain_recurrent_layer_has_a_constant_on_all_inputs() -> None:
    model = drawn(Reader(nn.RNN(2, 3, batch_first=True), 3, "last"), 0.7)
    x = torch.randn(4, 3, 2, dtype=torch.float64)
    labels = model(x).argmax(1)
    radius = holdfast.certify(model, x, labels, method="global").radius
    assert bool((radius > 0).all())
    with torch.no_grad():
        for points in inside(x, radius, "l2", 200):
            assert torch.equal(model(points).argmax(1), labels)
