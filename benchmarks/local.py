"""Lipschitz bounds on balls around rows: Holdfast beside ECLipsE-Gen and sampled slopes.

Run with `make bench-local`. The peer is the closed form of ECLipsE-Gen-Local (Xu and Sivaranjani,
2025) for ReLU, written from its formulas: ranges of the pre-activations from the same recursion.
For linf to linf the reference is the largest slope found by sampling and ascent.
"""

import math
import time

import numpy as np
import torch
from benchmarks.reference import reference_net
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import nn

import holdfast
from holdfast.brackets.semidefinite import lipsdp_upper, row_bounds_upper
from holdfast.types import Ball


def eclipse_gen(net: nn.Sequential, center: np.ndarray, radius: float) -> float:
    """Return the closed form of ECLipsE-Gen-Local for a ReLU chain on an l2 ball.

    Units that stay active get a large multiplier (they are linear), the others 2 / lambda_max,
    halved until the recursion stays positive.
    """
    layers = [module for module in net if isinstance(module, nn.Linear)]
    X, value = np.eye(len(center)), center
    for layer in layers[:-1]:
        W, b = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
        middle = W @ value + b
        spread = W @ np.linalg.inv(X) @ W.T
        reach = radius * np.sqrt(np.diag(spread).clip(0.0))
        low, high = ((middle + sign * reach > 0).astype(float) for sign in (-1.0, 1.0))
        largest = 1.0 / np.linalg.eigvalsh(spread)[-1]
        share = 2.0
        while share > 1e-6:
            lam = np.where(low > 0, 1e4, share) * largest
            inner = X + W.T @ ((low * lam * high)[:, None] * W)
            half = (lam * (low + high))[:, None] * W
            ahead = np.diag(lam) - 0.25 * half @ np.linalg.inv(inner) @ half.T
            if np.linalg.eigvalsh(ahead)[0] > 0.25 * largest * min(share, 1.0):
                break
            share *= 0.5
        X, value = ahead, np.maximum(middle, 0.0)
    W = layers[-1].weight.detach().double().numpy()
    return math.sqrt(np.linalg.eigvalsh(W @ np.linalg.inv(X) @ W.T)[-1])


def spent(function) -> tuple[float, float]:
    """Return a result with its CPU seconds."""
    start = time.process_time()
    return function(), time.process_time() - start


def main() -> None:
    """Print one row per ball."""
    torch.set_num_threads(1)
    digits = torch.from_numpy(load_digits().data / 16.0)
    l2 = Table(
        "net", "ball", "row", "best slope", "ECLipsE-Gen (CPU s)", "ours (CPU s)", "ours / peer"
    )
    linf = Table("net", "ball", "row", "best slope", "ours (CPU s)", "ours / best slope")
    for name in ("digits_32_trained", "digits_128_trained"):
        net = reference_net(name)
        dtype = next(net.parameters()).dtype
        rows = digits.to(dtype)
        graph = holdfast.capture(net, rows[:1])
        for row, radius in ((0, 0.05), (0, 0.2), (0, 0.5), (1, 0.5)):
            ball = Ball(rows[row].double(), radius)
            peer, peer_cpu = spent(lambda n=net, b=ball: eclipse_gen(n, b.center.numpy(), b.radius))
            ours, cpu = spent(lambda g=graph, b=ball: min(lipsdp_upper(g, 1e-3, 20.0, b)))
            best = holdfast.lipschitz(net, rows[:1], 2, ball, seconds=2.0).lower
            l2.add_row(
                name, f"l2 {radius}", str(row), f"{best:.5g}", f"{peer:.5g} ({peer_cpu:.3f})",
                f"{ours:.5g} ({cpu:.3f})", f"{ours / peer:.3f}",
            )  # fmt: skip
        for row in (0, 1):
            ball = Ball(rows[row].double(), 16 / 255, math.inf)
            ours, cpu = spent(lambda g=graph, b=ball: min(row_bounds_upper(g, math.inf, 20.0, b)))
            best = holdfast.lipschitz(net, rows[:1], math.inf, ball, seconds=2.0).lower
            linf.add_row(
                name, "linf 16/255", str(row), f"{best:.5g}", f"{ours:.5g} ({cpu:.3f})",
                f"{ours / best:.3f}",
            )  # fmt: skip
    console = Console(width=130)
    console.print(l2)
    console.print(linf)


if __name__ == "__main__":
    main()
