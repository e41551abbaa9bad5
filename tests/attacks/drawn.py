"""Small random nets, drawn step by step over the whole vocabulary, and rows to certify them at."""

import math
import random
from collections.abc import Callable, Iterator, Sequence

import torch
from tests.bounds.zoo import ACTIVATIONS
from tests.nets import MaxMin, Residual
from torch import Tensor, nn
from torch.nn import functional as F

import holdfast
from holdfast.graph.ir import Graph, _part
from holdfast.sources.demo import GroupSort

MOST = 64
"""Numbers in one row of a hidden value, at most: the nets are many rather than large."""


class Step(nn.Module):
    """A function of a tensor and of some modules."""

    def __init__(self, name: str, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.name, self.function, self.parts = name, function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)

    def extra_repr(self) -> str:
        return self.name


def _activation(draw: random.Random, channels: int) -> nn.Module:
    name = draw.choice([*ACTIVATIONS, "abs", "atan", "clamp", "slopes"])
    if name in {"slopes", "prelu"}:
        module = nn.PReLU(channels)
        module.weight.data = torch.randn(channels)
        return module
    plain: dict[str, Callable[[Tensor], Tensor]] = {
        "abs": torch.abs,
        "atan": torch.atan,
        "clamp": lambda x: x.clamp(-0.75, 1.25),
    }
    return Step(name, plain[name]) if name in plain else ACTIVATIONS[name]()


def _everywhere(draw: random.Random, shape: tuple[int, ...]) -> Iterator[nn.Module]:
    """Yield steps for values of any shape."""
    n, channels = math.prod(shape), shape[0]
    place = draw.randrange(1, len(shape) + 1)
    yield _activation(draw, channels)
    yield _activation(draw, channels)
    yield Step("shift and scale", lambda x: (x - 0.1) / 0.3)
    yield Step("from one", lambda x: 1.5 - 0.7 * x)
    yield Step("negative", lambda x: -x + x.amax(place, keepdim=True))
    yield Step("centred", lambda x: x - x.mean(place, keepdim=True))
    yield Step("sums", lambda x: x + 0.5 * x.sum(place, keepdim=True))
    yield Step("running sums", lambda x: 0.25 * x.cumsum(place) - x)
    yield Step("flipped", lambda x: torch.cat([x.flip(place), x[:, :1]], 1))
    yield Step("softmax", lambda x: x.softmax(place) * 3.0)
    yield Step("log softmax", lambda x: x.log_softmax(place))
    yield Step("sorted", lambda x: x.sort(place).values)
    yield Step("stacked", lambda x: torch.stack([x, 0.5 * x.abs()], 1).flatten(1, 2))
    yield Step("halves", lambda x: torch.cat(x.chunk(2, 1)[::-1], 1))
    yield Step("every other", lambda x: torch.cat([x[:, ::2], x[:, -1:]], 1))
    yield Step("padded", lambda x: F.pad(x, (1, 2), value=0.3))
    order = torch.randint(0, channels, (channels + 1,))
    yield Step("chosen", lambda x: x.index_select(1, order.to(x.device)))
    yield Step("moved", lambda x: x.movedim(1, place).contiguous())
    yield Step("smaller", lambda x, one, two: torch.minimum(one(x), two(x)), *_pair(draw, shape))
    yield Step("larger", lambda x, one, two: torch.max(one(x), -two(x)), *_pair(draw, shape))
    yield Residual(*_pair(draw, shape))
    if channels % 2 == 0:
        yield draw.choice([MaxMin(), *([GroupSort(2)] if len(shape) == 1 else [])])
    if draw.random() < 0.5:
        norm = nn.LayerNorm(shape)
        norm.weight.data, norm.bias.data = torch.randn(shape), torch.randn(shape)
        yield norm
    groups = draw.choice([g for g in range(1, channels + 1) if channels % g == 0])
    if n // groups > 1:
        yield nn.GroupNorm(groups, channels)


def _pair(draw: random.Random, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """Return two modules that keep the shape."""
    channels = shape[0]
    if len(shape) == 1:
        return nn.Linear(channels, channels), _activation(draw, channels)
    kind = {2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}[len(shape)]
    return kind(channels, channels, 3, padding=1), _activation(draw, channels)


def _flat(draw: random.Random, shape: tuple[int, ...]) -> Iterator[nn.Module]:
    """Yield steps for rows of numbers."""
    (n,) = shape
    for _ in range(6):
        yield nn.Linear(n, draw.randint(2, 12), bias=draw.random() < 0.8)
    yield _statistics(nn.BatchNorm1d(n))
    other = nn.Linear(n, draw.randint(1, 4))
    yield Step("beside", lambda x, linear: torch.cat([x, linear(x)], 1), other)
    for length in (2, 3, 4):
        if n % length == 0:
            yield nn.Unflatten(1, (n // length, length))
            yield Step("rows", lambda x, k=length: x.reshape(x.shape[0], -1, k).transpose(1, 2))
    for side in (2, 3, 4):
        if n % (side * side) == 0:
            yield nn.Unflatten(1, (n // side**2, side, side))
    if n % 8 == 0:
        yield nn.Unflatten(1, (n // 8, 2, 2, 2))


def _statistics(norm: nn.Module) -> nn.Module:
    size = norm.num_features
    norm.running_mean, norm.running_var = torch.randn(size), torch.rand(size) + 0.1
    norm.weight.data, norm.bias.data = torch.randn(size), torch.randn(size)
    return norm


def _grids(draw: random.Random, shape: tuple[int, ...]) -> Iterator[nn.Module]:
    """Yield steps for channels on a grid of one to three dimensions."""
    channels, dims = shape[0], len(shape) - 1
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    largest = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dims - 1]
    average = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[dims - 1]
    adaptive = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 1]
    normal = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
    bias = draw.random() < 0.8
    for _ in range(4):
        groups = draw.choice([1, 1, math.gcd(channels, 2), channels])
        out = groups * draw.randint(1, 2)
        mode = draw.choice(["zeros", "zeros", "circular", "reflect", "replicate"])
        size, stride, dilation = draw.randint(1, 3), draw.randint(1, 2), draw.randint(1, 2)
        padding = draw.choice([0, 1, 2, "same"]) if stride == 1 else draw.randint(0, 2)
        settings = {"padding": padding, "dilation": dilation, "groups": groups, "bias": bias}
        yield conv(channels, out, size, stride, padding_mode=mode, **settings)
        extra = draw.randint(0, stride - 1)
        pad = draw.randint(0, 1)
        settings = {"padding": pad, "output_padding": extra, "groups": groups, "bias": bias}
        yield transposed(channels, out, size, stride, dilation=dilation, **settings)
    size, stride, ceil = draw.randint(1, 3), draw.randint(1, 2), draw.random() < 0.5
    pad = draw.randint(0, size // 2)
    yield largest(size, stride, pad, dilation=draw.randint(1, 2), ceil_mode=ceil)
    yield average(size, stride, pad, ceil, draw.random() < 0.5)
    yield adaptive(draw.randint(1, 3))
    yield nn.Upsample(scale_factor=2, mode="nearest")
    yield _statistics(normal(channels))
    yield nn.Flatten()
    yield nn.Flatten()
    yield Step("means", lambda x: x.mean(-1))
    yield Step("largest", lambda x: x.amax(-1))
    yield Step("turned", lambda x: x.transpose(1, -1).contiguous())
    if dims == 2 and channels % 4 == 0:
        yield nn.PixelShuffle(2)


SHAPES = ((2,), (3,), (6,), (8,), (12,), (2, 4), (1, 4, 4), (2, 3, 3), (1, 2, 2, 3))
"""Shapes of the rows that nets are drawn for."""


def draw_net(seed: int, shape: tuple[int, ...]) -> nn.Sequential:
    """Return a float32 classifier in eval mode for rows of a shape."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    steps, x = [], torch.randn(3, *shape)
    for _ in range(draw.randint(2, 6)):
        step, x = _draw_step(draw, x)
        steps.append(step)
    steps += [nn.Flatten(), nn.Linear(x[0].numel(), draw.randint(2, 5))]
    if draw.random() < 0.15:
        steps.append(draw.choice([nn.LogSoftmax(1), nn.Softmax(1), nn.Tanh(), nn.ReLU()]))
    net = nn.Sequential(*steps).eval()
    _scale(draw, net)
    if draw.random() < 0.7:
        _balance(net, shape)
    return net


def _balance(net: nn.Sequential, shape: tuple[int, ...]) -> None:
    """Let no class lead on average: balls end where classes meet, and many nets have one class."""
    last = next(step for step in reversed(net) if isinstance(step, nn.Linear))
    ahead = net[: list(net).index(last) + 1]
    with torch.no_grad():
        last.bias -= ahead(torch.randn(64, *shape)).mean(0)


def _draw_step(draw: random.Random, x: Tensor) -> tuple[nn.Module, Tensor]:
    """Return a step that takes these values, and its results."""
    while True:
        shape = tuple(x.shape[1:])
        special = _flat(draw, shape) if len(shape) == 1 else _grids(draw, shape)
        step = draw.choice([*special, *_everywhere(draw, shape)]).eval()
        try:
            with torch.no_grad():
                moved = step(x)
        except (RuntimeError, ValueError, IndexError):
            continue  # a kernel larger than the grid, and the like
        sizes = moved.shape[1:]
        if 2 <= moved[0].numel() <= MOST and 1 <= len(sizes) <= 4 and len(moved) == len(x):
            return step, moved


def _scale(draw: random.Random, net: nn.Module) -> None:
    """Let weights and biases differ in size, now and then by a lot, and be dyadic or zero."""
    for name, value in net.named_parameters():
        power = draw.choice([0, 0, 0, draw.uniform(-3, 3), draw.uniform(-12, 4)])
        if name.endswith("bias") and draw.random() < 0.1:
            power = draw.uniform(0, 12)
        value.data *= 2.0**power
        if draw.random() < 0.1:
            value.data = (value.data * 8).round() / 8
        if draw.random() < 0.1:
            value.data[torch.rand(value.shape) < 0.5] = 0.0


def draw_rows(seed: int, net: nn.Module, shape: tuple[int, ...], count: int = 20) -> Tensor:
    """Return float32 rows: half of them anywhere, half of them near a change of class."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    x = torch.randn(count, *shape) * 2.0 ** draw.uniform(-3, 3)
    low, high = x, x.roll(1, 0)
    with torch.no_grad():
        label, other = net(low).argmax(1), net(high).argmax(1)
        for _ in range(draw.randint(1, 20)):
            middle = (low + high) / 2
            same = (net(middle).argmax(1) == label).reshape(-1, *[1] * len(shape))
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    near = (label != other) & (torch.arange(count) % 2 == 0)
    return torch.where(near.reshape(-1, *[1] * len(shape)), low, x)


class Bundle(nn.Module):
    """Several nets side by side: one capture instead of many."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([net(x) for net in self.nets], 1)


def graphs_of(nets: Sequence[nn.Module], shape: tuple[int, ...]) -> list[Graph]:
    """Return the graph of each net, out of the graph of all of them."""
    together = holdfast.capture(Bundle(nets), torch.randn(3, *shape))
    ends = together[together.output].inputs
    return [_part(together, together.nodes, end) for end in ends]
