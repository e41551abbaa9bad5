"""Exact Lipschitz constants: brackets closed to 1e-6 on the nets with published exact values.

Run with `make bench-exact`. The peer in the same run is the mixed-integer program (Jordan and
Dimakis, 2020) of the l1 and linf constants, solved by HiGHS; LipSDP shows what branching adds.
"""

import math
import time

import torch
from benchmarks.milp import milp_estimate
from benchmarks.reference import reference_net
from rich.console import Console
from rich.table import Table

import holdfast
from holdfast.brackets.branching.pieces import pieces
from holdfast.brackets.semidefinite import lipsdp_upper, row_bounds_upper
from holdfast.graph.ir import Graph
from holdfast.types import Box

EVERYWHERE = (
    ("tiny_2-8-8-2_moons", 2, 82.32498440695787),
    ("exlipbab_iris_relu", 4, 11.634355134114875),
    ("exlipbab_iris_groupsort2", 4, None),
    ("exlipbab_wine12_groupsort2", 11, 2.788306161469607),
    ("exlipbab_wine12_relu", 11, 1.7433699967107172),
)
BOXES = (
    ("lipbab_iris_4_5_5_3", 4, 1.0, (5.958048912394726, 6.771454513402937, 12.605085581416922)),
    ("lipbab_sd_10_15_10_3", 10, 0.1, (10.41286850374477, 9.530716922306004, 16.274810805318676)),
)


def milp(graph: Graph, norm: float, box: Box | None) -> str:
    """Return the optimum of the mixed-integer program and its CPU seconds."""
    if box is None or norm == 2.0:
        return "-"
    start = time.process_time()
    value, _ = milp_estimate(pieces(graph), (box.low.numpy(), box.high.numpy()), norm, 60.0)
    return f"{value:.8g} ({time.process_time() - start:.2f})"


def row(name: str, width: int, norm: float, box: Box | None, exact: float | None) -> list[str]:
    """Bracket one net."""
    net = reference_net(name)
    points = torch.randn(64, width, generator=torch.Generator().manual_seed(0)).double()
    points = points.to(next(net.parameters()).dtype)
    graph = holdfast.capture(net, points[:1])
    if norm == 2.0:
        loose = min(lipsdp_upper(graph, 1e-6, 20.0, box))
    else:
        loose = min(row_bounds_upper(graph, norm, 20.0, box))
    start = time.process_time()
    bracket = holdfast.lipschitz(net, points, norm, box, seconds=60.0, tolerance=1e-6)
    spent = time.process_time() - start
    wrong = exact is not None and not bracket.lower * (1 - 1e-15) <= exact <= bracket.upper
    return [
        name,
        f"l{norm:g}",
        "-" if exact is None else f"{exact:.12g}",
        f"{loose:.8g}",
        f"{bracket.lower:.12g}",
        f"{bracket.upper:.12g}",
        f"{bracket.ratio - 1:.1e}",
        "WRONG" if wrong else bracket.outcome.name,
        f"{spent:.2f}",
        milp(graph, norm, box),
    ]


def main() -> None:
    """Print one row per net and norm."""
    torch.set_num_threads(1)
    titles = ("net", "norm", "published", "LipSDP", "lower", "upper", "gap", "ended", "CPU s")
    table = Table(*titles, "MILP by HiGHS (CPU s)")
    for name, width, exact in EVERYWHERE:
        table.add_row(*row(name, width, 2.0, None, exact))
    for name, width, side, values in BOXES:
        box = Box(torch.zeros(width).double(), torch.full((width,), side).double())
        for norm, exact in zip((1.0, 2.0, math.inf), values, strict=True):
            table.add_row(*row(name, width, norm, box, exact))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
