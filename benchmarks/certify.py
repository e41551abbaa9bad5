"""Certified radii of Holdfast beside auto_LiRPA's CROWN, row by row on the shared image nets.

Run with `make bench-certify`, optionally `ROWS=200`. The peer (Xu et al., 2020) is used where it can
be imported: put a clone of its repository on PYTHONPATH. It is asked by bisection for the largest
ball that CROWN verifies, in float32 as it is, to the step of our own grid.
"""

import importlib.util
import json
import math
import os
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from benchmarks.reference import reference_net, shared
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import holdfast

NETS = (
    "mnist_mlp2x100_nor", "mnist_mlp2x100_adv0.1", "mnist_mlp2x100_lpd0.1", "mnist_cnn_small_nor",
    "mnist_cnn_small_lpd", "cifar_cnn_small_l2_36px", "cifar_cnn_wide1_nor",
)  # fmt: skip
STEP = 2.0 ** (1 / 256)


def rows_of(name: str, count: int) -> tuple[Tensor, Tensor]:
    """Return the first test images in the units of the net, and labels."""
    spec = json.loads((shared() / f"{name}.json").read_text())
    cifar = name.startswith("cifar")
    file = "cifar10_test2000.npz" if cifar else "mnist.npz"
    with np.load(shared().parent / "data" / file, allow_pickle=False) as arrays:
        images, labels = (next(arrays[n] for n in arrays if n in k) for k in (XS, YS))
    pixels = torch.from_numpy(images[:count]).float() / 255
    pixels = pixels.permute(0, 3, 1, 2) if cifar else pixels[:, None]
    mean, std = (torch.tensor(spec["preprocessing"][k])[:, None, None] for k in ("mean", "std"))
    return ((pixels - mean) / std).contiguous(), torch.from_numpy(labels[:count]).long()


XS, YS = ("x_test", "x", "images"), ("y_test", "y", "labels")


def crown(net: nn.Module, inputs: Tensor, labels: Tensor) -> Callable[[Tensor, float], Tensor]:
    """Return whether CROWN verifies balls of the given radii, as a function of radii and norm."""
    peer = importlib.import_module("auto_LiRPA")
    bounded = peer.BoundedModule(net, inputs[:2])
    classes = net(inputs[:1]).shape[1]
    unit = torch.eye(classes)
    others = torch.ones(len(labels), classes, dtype=torch.bool).scatter(1, labels[:, None], False)
    spec = (unit[labels][:, None] - unit)[others].reshape(len(labels), classes - 1, classes)

    # With one radius per row the peer takes boxes in any net, and l2 balls in dense ones.
    dense = not any(isinstance(module, nn.Conv2d) for module in net.modules())

    def verifies(radius: Tensor, norm: float) -> Tensor:
        held = []
        for part in torch.arange(len(inputs)).split(20 if dense or math.isinf(norm) else 1):
            eps = radius[part].reshape(-1, 1)
            ball = peer.PerturbationLpNorm(norm=norm, eps=eps if len(part) > 1 else float(eps))
            if math.isinf(norm):
                eps = eps.reshape(-1, 1, 1, 1)
                ball = peer.PerturbationLpNorm(
                    norm=norm, x_L=inputs[part] - eps, x_U=inputs[part] + eps
                )
            x = peer.BoundedTensor(inputs[part], ball)
            low, _ = bounded.compute_bounds(x=(x,), C=spec[part], method="CROWN", bound_upper=False)
            held.append((low > 0).all(1).detach())
        return torch.cat(held)

    return verifies


def bisected(verifies: Callable[[Tensor, float], Tensor], count: int, norm: float) -> Tensor:
    """Return the largest verified radius of each row, up to one step."""
    low, high = torch.full((count,), 1e-4), torch.full((count,), 10.0)
    low[~verifies(low, norm)] = 0.0
    while bool((high > low.clamp(min=1e-4) * STEP).any()):
        middle = (low.clamp(min=1e-4) * high).sqrt()
        held = verifies(middle, norm)
        low, high = torch.where(held, middle, low), torch.where(held, high, middle)
    return low


def spent(function: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Return a result with its CPU seconds."""
    start = time.process_time()
    return function(), time.process_time() - start


def main() -> None:
    """Print one row per net and norm."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    count = int(os.environ.get("ROWS", "200"))
    has_peer = importlib.util.find_spec("auto_LiRPA") is not None
    console = Console(width=150)
    table = Table("net", "norm", "auto", "local", "CROWN", "s / row", "CROWN s / row", "rows below")
    for name in NETS:
        net = reference_net(name).float()
        inputs, labels = rows_of(name, count)
        for norm in (2.0, math.inf):
            ours, cpu = spent(lambda n=net, p=norm: holdfast.certify(n, inputs, labels, p).radius)
            local = holdfast.certify(net, inputs, labels, norm, "local").radius
            cells = ["-", "-", "-"]
            if has_peer:
                verifies = crown(net, inputs, labels)
                peer, its = spent(lambda v=verifies, p=norm: bisected(v, count, p))
                below = int((ours < peer.double() / STEP).sum())
                cells = [f"{peer.mean():.5f}", f"{its / count:.3f}", str(below)]
            mean, alone = f"{ours.mean():.5f}", f"{local.mean():.5f}"
            table.add_row(
                name, f"{norm:g}", mean, alone, cells[0], f"{cpu / count:.3f}", *cells[1:]
            )
            console.print(name, norm, mean, alone, *cells, f"{cpu / count:.3f}")
    console.print(table)


if __name__ == "__main__":
    main()
