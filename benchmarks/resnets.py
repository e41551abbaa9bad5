"""Residual nets with batch norm: brackets by the product alone and with blocks, and what they cost.

Run with `make bench-resnets`. A WideResNet-10-2 and a CIFAR ResNet-18 of width 64 with random
weights, whose batch norms have seen noise, and the shared cifar_resnet2b.onnx. The product is the
bound before blocks; a lower bound is the same for both. With auto_LiRPA on PYTHONPATH linf radii
are compared with those of its CROWN as well (`ROWS=4`).
"""

import importlib.util
import itertools
import math
import os
import resource
import time

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.certify import XS, YS, bisected, crown, spent
from benchmarks.reference import shared
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import holdfast
from holdfast.sources.models import load_model


class Wide(nn.Module):
    """A block of a WideResNet: batch norm and activation come first."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        x = F.relu(self.norm1(x))
        return self.conv2(F.relu(self.norm2(self.conv1(x)))) + self.shortcut(x)


class Basic(nn.Module):
    """A block of a ResNet-18."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if channels != width:
            straight = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(straight, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


def _classifier(stem: list[nn.Module], body: list[nn.Module], channels: int) -> nn.Module:
    """Put a net for images of 3 x 32 x 32 together; its batch norms see noise."""
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    net = nn.Sequential(*stem, *body, *head)
    with torch.no_grad():
        for _ in range(20):
            net(torch.rand(32, 3, 32, 32))
    return net.eval()


def wide_resnet() -> nn.Module:
    """Return a WideResNet-10-2."""
    torch.manual_seed(0)
    body = [Wide(16, 32, 1), Wide(32, 64, 2), Wide(64, 128, 2), nn.BatchNorm2d(128), nn.ReLU()]
    return _classifier([nn.Conv2d(3, 16, 3, 1, 1, bias=False)], body, 128)


def resnet18() -> nn.Module:
    """Return a CIFAR ResNet-18 of width 64."""
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    widths = (64, 64, 64, 128, 128, 256, 256, 512, 512)
    body = [Basic(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)]
    return _classifier(stem, body, 512)


def radii_beside_crown(count: int) -> str:
    """Return what rows cost here and through auto_LiRPA, and how the radii compare."""
    net = load_model(f"onnx:{shared() / 'cifar_resnet2b.onnx'}").model
    with np.load(shared().parent / "data" / "cifar10_test2000.npz", allow_pickle=False) as arrays:
        images, labels = (next(arrays[n] for n in arrays if n in names) for names in (XS, YS))
    pixels = torch.from_numpy(images[:50]).float().permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.4914, 0.4822, 0.4465],
                                                          [0.2471, 0.2435, 0.2616]))  # fmt: skip
    rows, labels = (pixels - mean) / std, torch.from_numpy(labels[:50]).long()
    right = (net(rows).argmax(1) == labels).nonzero().flatten()[:count]
    rows, labels = rows[right], labels[right]
    ours, cpu = spent(lambda: holdfast.certify(net, rows, labels, math.inf).radius)
    peer, its = spent(lambda: bisected(crown(net, rows, labels), count, math.inf))
    least = float((ours / peer.double()).min())
    return (
        f"linf radii of {count} rows: {cpu / count:.2f} CPU s a row, auto_LiRPA's CROWN "
        f"{its / count:.2f}, ratio {cpu / its:.2f}; smallest quotient of radii {least:.4f}"
    )


def main() -> None:
    """Print a line for each net and budget."""
    torch.set_num_threads(1)
    nets = {
        "cifar_resnet2b": lambda: load_model(f"onnx:{shared() / 'cifar_resnet2b.onnx'}").model,
        "WideResNet-10-2": wide_resnet,
        "ResNet-18": resnet18,
    }
    console = Console(width=170)
    table = Table(
        "net", "seconds", "lower", "product", "upper", "ratio before", "ratio", "x tighter",
        "first bound CPU s", "CPU s", "wall s", "peak GB so far", "notes",
    )  # fmt: skip
    for name, make in nets.items():
        net = make()
        for seconds in (0.0, 60.0):
            first: list[float] = []
            wall, cpu = time.perf_counter(), time.process_time()

            def report(_: object, start: float = cpu, first: list[float] = first) -> None:
                first.append(time.process_time() - start)

            rows = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
            found = holdfast.lipschitz(net, rows, seconds=seconds, report=report)
            product = next(step.value for step in found.trace if step.side == "upper")
            numbers = (
                found.lower, product, found.upper, product / found.lower, found.ratio,
                product / found.upper, first[0], time.process_time() - cpu,
                time.perf_counter() - wall,
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            )  # fmt: skip
            cells = [f"{number:.4g}" for number in numbers]
            table.add_row(name, f"{seconds:g}", *cells, "; ".join(found.notes))
    console.print(table)
    if importlib.util.find_spec("auto_LiRPA") is not None:
        console.print(radii_beside_crown(int(os.environ.get("ROWS", "4"))))


if __name__ == "__main__":
    main()
