"""Lipschitz bounds of the reference nets: Holdfast beside its peers, in one run.

Run with `make bench-lipschitz`; needs the shared reference nets (HOLDFAST_SHARED or ../shared).
Peers: the product of spectral norms, ECLipsE-Fast (Xu and Sivaranjani, 2024, its closed form), and
the same LipSDP-Neuron program through cvxpy and Clarabel where that ends in reasonable time.
"""

import json
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from benchmarks import exact, local
from benchmarks.eclipse import eclipse_fast as fast_bound
from benchmarks.reference import SHAPES, gaussian, reference_net, shared
from rich.console import Console
from rich.table import Table

import holdfast
from holdfast.brackets.gain import gain_upper
from holdfast.brackets.semidefinite import lipsdp_upper
from holdfast.sdp.chain.chain import chain_of
from holdfast.sdp.form import NormalForm
from holdfast.sdp.lift import normal_form
from holdfast.sdp.reduction import reduce

CLARABEL = ("tiny_2-8-8-2_moons", "digits_32_trained")
"""Nets on which Clarabel ends within two minutes."""


def timed(function: Callable[[], float]) -> tuple[float, float, float]:
    """Return a result with its wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = function()
    return value, time.perf_counter() - wall, time.process_time() - cpu


def eclipse_fast(form: NormalForm) -> float:
    """Return the ECLipsE-Fast bound of a chain of layers; NaN where layers are skipped."""
    chain = chain_of(form)
    return math.nan if chain is None else fast_bound(chain)[0]


def clarabel(form: NormalForm) -> float:
    """Return the value that cvxpy and Clarabel find for the same program."""
    import cvxpy as cp

    d, size = form.inputs, form.B.shape[1]
    E = np.eye(size)
    P = E[d:] - form.low[:, None] * form.B
    Q = E[d:] - form.high[:, None] * form.B
    r, lam = cp.Variable(), cp.Variable(form.units, nonneg=True)
    S = r * E[:, :d] @ E[:d] - form.C.T @ form.C
    S = S + P.T @ cp.diag(lam) @ Q + Q.T @ cp.diag(lam) @ P
    cp.Problem(cp.Minimize(r), [S >> 0]).solve(solver=cp.CLARABEL)
    return math.sqrt(r.value)


def main() -> None:
    """Print one row per reference net, then the exact nets and the balls."""
    torch.set_num_threads(1)
    folder, console = shared() / "lipschitz", Console(width=150)
    reference = json.loads((folder / "reference.json").read_text())
    table = Table("net", "units", "best slope", "product", "ECLipsE-Fast", "Clarabel (CPU s)")
    for title in ("ours", "ratio", "wall s", "CPU s", "published optimum"):
        table.add_column(title)
    for name, known in reference.items():
        table.add_row(name, *row(name, known))
        console.print(f"{name} done", style="dim")
    table.add_row("20 x 128 Gaussian", *deep_row())
    console.print(table)
    exact.main()
    local.main()


def deep_row() -> tuple[str, ...]:
    """Bound a deep random net, too large for one matrix, along its chain of layers."""
    graph = holdfast.capture(gaussian(128, 20), torch.zeros(1, 64, dtype=torch.float64))
    fast = eclipse_fast(normal_form(graph, 4000))
    value, wall, cpu = timed(lambda: min(lipsdp_upper(graph, 1e-3, 25.0)))
    product = f"{gain_upper(graph, 2):.5g}"
    ours = (f"{value:.6g}", f"{value / fast:.4f} x Fast", f"{wall:.2f}", f"{cpu:.2f}", "-")
    return ("2560", "-", product, f"{fast:.5g}", "-", *ours)


def row(name: str, known: dict) -> tuple[str, ...]:
    """Bound one net with every method."""
    net = reference_net(name)
    dtype = next(net.parameters()).dtype
    graph = holdfast.capture(net, torch.zeros(1, *SHAPES.get(name, (64,)), dtype=dtype))
    whole = normal_form(graph, 4000)
    form = reduce(whole)
    value, wall, cpu = timed(lambda: min(lipsdp_upper(graph, 1e-3, 120.0)))
    peer = "-"
    if name in CLARABEL:
        found, _, seconds = timed(lambda: clarabel(form))
        peer = f"{found:.5g} ({seconds:.2f})"
    return (
        str(form.units),
        f"{known['best_lower']:.5g}",
        f"{gain_upper(graph, 2):.5g}",
        f"{eclipse_fast(whole):.5g}",
        peer,
        f"{value:.6g}",
        f"{value / known['best_lower']:.4f}",
        f"{wall:.2f}",
        f"{cpu:.2f}",
        "-" if known["lipsdp_neuron"] is None else f"{known['lipsdp_neuron']:.6g}",
    )


if __name__ == "__main__":
    main()
