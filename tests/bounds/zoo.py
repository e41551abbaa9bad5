"""Small random nets that use every operation, and points that fill regions up to their edges."""

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from tests.nets import MaxMin, Residual
from torch import Tensor, nn

import holdfast
from holdfast.graph import running
from holdfast.graph.ir import Graph, Node
from holdfast.graph.running import Approximate
from holdfast.graph.walk import Reading, read
from holdfast.sources.demo import GroupSort
from holdfast.types import Ball, Box, Region


class Wired(nn.Module):
    """Concatenation, slices, padding with a value, repeated entries, constants, a maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(16, 4)
        self.register_buffer("order", torch.tensor([5, 0, 0, 3]))
        self.register_buffer("mark", torch.tensor([[0.5, -2.0]]))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - 0.1) / 0.3
        h = torch.relu(self.first(x))
        moved = torch.cat([h[:, 1:4].flip(1), h.index_select(1, self.order)], 1)
        padded = nn.functional.pad(moved, (1, 0), value=0.7)
        wide = torch.cat([padded, x, self.mark.expand(x.shape[0], 2)], 1)
        return self.second(wide).clamp(min=-0.5) - x.amax(1, keepdim=True)


class Sums(nn.Module):
    """Reductions and broadcasting."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x).reshape(-1, 2, 3)
        y = torch.tanh(y - y.mean(2, keepdim=True)) + y.sum(1, keepdim=True)
        return torch.minimum(y[:, 0], -y[:, 1]).abs()


class Attention(nn.Module):
    """Three tokens of two entries that read each other, and their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.unflatten(1, (3, 2))
        q, k, v = (linear(tokens) for linear in self.maps)
        weights = (q @ k.mT).softmax(-1)
        return (tokens + weights @ v).flatten(1)


class Function(nn.Module):
    """A function that is no module of torch."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _dense(activation: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Linear(6, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 3)
    )


def _images(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), nn.Unflatten(1, (2, 4, 4)), *layers, nn.Flatten())


def _statistics() -> nn.Module:
    norm = nn.BatchNorm2d(3)
    norm.running_mean, norm.running_var = torch.randn(3), torch.rand(3) + 0.1
    norm.weight.data, norm.bias.data = torch.randn(3), torch.randn(3)
    return norm


def _scaled(norm: nn.Module) -> nn.Module:
    norm.weight.data, norm.bias.data = (torch.randn_like(p) for p in (norm.weight, norm.bias))
    return norm


def _scaled_weight(norm: nn.Module) -> nn.Module:
    norm.weight.data = torch.randn_like(norm.weight)
    return norm


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "leaky negative": lambda: nn.LeakyReLU(-0.5),
    "prelu": lambda: _per_channel(8),
    "elu": lambda: nn.ELU(1.5),
    "elu negative": lambda: nn.ELU(-0.7),
    "celu": lambda: nn.CELU(2.0),
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "gelu tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "relu6": nn.ReLU6,
    "hardtanh": lambda: nn.Hardtanh(-0.5, 0.25),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "atan": lambda: Function(torch.atan),
    "sin": lambda: Function(torch.sin),
    "cos": lambda: Function(torch.cos),
    "erf": lambda: Function(torch.erf),
    "softsign": nn.Softsign,
    "softshrink": lambda: nn.Softshrink(0.3),
    "tanhshrink": nn.Tanhshrink,
    "log1p of relu": lambda: Function(lambda x: torch.log1p(torch.relu(x))),
    "logsigmoid": nn.LogSigmoid,
    "softplus": lambda: nn.Softplus(beta=3.0),
}


class EachOne(nn.Module):
    """Every activation, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.ModuleDict({name: make() for name, make in ACTIVATIONS.items()})

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([activation(x) for activation in self.each.values()], 1)


@functools.cache
def activation_nodes() -> dict[str, Node]:
    """Return the node of every activation on rows of eight numbers, by one capture."""
    torch.manual_seed(0)
    graph = holdfast.capture(EachOne().eval(), torch.zeros(1, 8))
    return {name: graph[graph.layers[f"each.{name}"]] for name in ACTIVATIONS}


def _per_channel(width: int) -> nn.Module:
    module = nn.PReLU(width)
    module.weight.data = torch.randn(width)
    return module


NETS: dict[str, Callable[[], nn.Module]] = {
    **{name: _dense(make) for name, make in ACTIVATIONS.items()},
    "direct": lambda: nn.Sequential(nn.ReLU(), nn.Linear(6, 3)),
    "affine": lambda: nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)),
    "residual": lambda: nn.Sequential(
        nn.Linear(6, 6), Residual(nn.ReLU(), nn.Linear(6, 6)), Residual(nn.Linear(6, 6), nn.GELU())
    ),
    "maxmin": _dense(MaxMin),
    "groupsort": _dense(lambda: GroupSort(2)),
    "sort of four": _dense(lambda: GroupSort(4)),
    "long sort": lambda: nn.Sequential(nn.Linear(6, 12), GroupSort(12), nn.Linear(12, 3)),
    "wired": Wired,
    "sums": Sums,
    "conv": lambda: _images(
        nn.Conv2d(2, 3, 3, padding=1), _statistics(), nn.ReLU(), nn.Conv2d(3, 2, 2, stride=2)
    ),
    "conv first": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)),
        nn.Conv1d(2, 4, 2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 3),
    ),
    "circular": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6)),
        nn.Conv1d(1, 3, 3, padding=2, padding_mode="circular"),
        nn.SiLU(),
        nn.Conv1d(3, 2, 3, padding=2, padding_mode="reflect", dilation=2),
        nn.Flatten(),
    ),
    "transposed": lambda: _images(
        nn.ReLU(),
        nn.ConvTranspose2d(2, 2, 3, stride=2, padding=1, output_padding=1),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    ),
    "max pool": lambda: _images(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2, 1, padding=1), nn.Conv2d(3, 2, 2)
    ),
    "ceil pool": lambda: _images(nn.MaxPool2d(3, 2, ceil_mode=True), nn.ReLU()),
    "dilated pool": lambda: _images(nn.MaxPool2d(3, 1, 1, dilation=2), nn.ReLU()),
    "averages": lambda: _images(
        nn.Tanh(), nn.AdaptiveAvgPool2d(3), nn.Upsample(scale_factor=2), nn.ReLU()
    ),
    "shuffle": lambda: nn.Sequential(
        nn.Linear(6, 16), nn.Unflatten(1, (4, 2, 2)), nn.PixelShuffle(2), nn.ReLU(), nn.Flatten()
    ),
    "layer norm": lambda: nn.Sequential(
        nn.Linear(6, 8), _scaled(nn.LayerNorm(8)), nn.ReLU(), nn.Linear(8, 3)
    ),
    "group norm": lambda: _images(_scaled(nn.GroupNorm(2, 2)), nn.ReLU()),
    "rms norm": lambda: nn.Sequential(
        nn.Linear(6, 8), _scaled_weight(nn.RMSNorm(8)), nn.ReLU(), nn.Linear(8, 3)
    ),
    "lengths": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)),
        Function(lambda x: torch.cat([x.norm(dim=2), (2 * x - 1).norm(dim=1)], 1)),
        nn.Linear(5, 3),
        Function(lambda x: x.norm(dim=1, keepdim=True)),
    ),
    "log sum exp": lambda: nn.Sequential(
        nn.Linear(6, 8),
        nn.Unflatten(1, (2, 4)),
        Function(lambda x: torch.cat([x.logsumexp(2), (9 * x).logsumexp((1, 2), True)[:, 0]], 1)),
    ),
    "softmax": lambda: nn.Sequential(nn.Linear(6, 5), nn.Softmax(-1), nn.Linear(5, 3)),
    "products": lambda: nn.Sequential(
        nn.Linear(6, 6),
        Function(lambda x: torch.cat([x[:, :3] * x[:, 3:], x**2, x[:, :1] ** 3 / 9], 1)),
        nn.Linear(10, 3),
    ),
    "exponentials": lambda: nn.Sequential(
        nn.Linear(6, 6),
        Function(lambda x: torch.exp(0.3 * x) / (1.0 + torch.exp(0.3 * x)).sum(1, keepdim=True)),
        nn.Linear(6, 3),
    ),
    "roots": lambda: nn.Sequential(
        nn.Linear(6, 6),
        Function(lambda x: torch.log((1.0 + x**2).sqrt()) + x * torch.rsqrt(1.0 + x.abs())),
        nn.Linear(6, 3),
    ),
    "tangents": lambda: nn.Sequential(
        nn.Linear(6, 6),
        Function(lambda x: torch.tan(0.7 * x.tanh()) * (1.0 + x**2) ** 0.3),
        nn.Linear(6, 3),
    ),
    "attention": Attention,
    "log softmax": lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.LogSoftmax(-1)),
}
"""All read rows of six numbers."""


@functools.cache
def graph_of(name: str, seed: int = 0) -> Graph:
    if name in ACTIVATIONS and name != "relu":  # capture is slow: take the net of ReLUs
        relus, node = graph_of("relu", seed), activation_nodes()[name]
        nodes = [
            replace(other, op=node.op, params=node.params) if other.op == "relu" else other
            for other in relus.nodes
        ]
        return replace(relus, nodes=tuple(nodes))
    torch.manual_seed(seed)
    return holdfast.capture(NETS[name]().eval(), torch.zeros(2, 6))


def all_values(graph: Graph, points: Tensor) -> dict[str, Approximate]:
    """Return every node's value, with its error."""
    reading = Reading("every node", running.ONE_STEP, {}, constants=True)
    exact = points.double()
    start = {graph.perturbed_input.name: Approximate(exact, torch.zeros_like(exact))}
    with torch.no_grad():
        return read(graph.double(), reading, start)


def some_regions(seed: int, size: float) -> list[Region]:
    torch.manual_seed(seed)
    center = torch.randn(6)
    box = Box(center - size * torch.rand(6), center + size * torch.rand(6))
    return [Ball(center, size, norm) for norm in (1.0, 2.0, math.inf)] + [box]


def points_in(region: Region, count: int = 10_000, seed: int = 0) -> Tensor:
    """Return points of a region: half of them on its edge, up to 1e-12 of its size."""
    generator = torch.Generator().manual_seed(seed)
    if isinstance(region, Box):
        low, high = region.low.double(), region.high.double()
        share = torch.rand((count, *low.shape), generator=generator, dtype=torch.float64)
        share[: count // 2] = share[: count // 2].round()
        return torch.minimum(torch.maximum(low + share * (high - low), low), high)
    center = region.center.double()
    noise = torch.randn((count, *center.shape), generator=generator, dtype=torch.float64)
    if math.isinf(region.norm):
        noise[: count // 4] = noise[: count // 4].sign()
    if region.norm == 1.0:
        noise[: count // 4] *= (
            noise[: count // 4].abs().eq(noise[: count // 4].abs().amax(-1, keepdim=True))
        )
    lengths = torch.linalg.vector_norm(noise.flatten(1), ord=region.norm, dim=1)
    share = torch.rand(count, generator=generator, dtype=torch.float64)
    share[: count // 2] = 1.0
    scale = share * region.radius * (1.0 - 1e-12) / lengths
    return center + noise * scale.reshape(-1, *[1] * center.dim())
