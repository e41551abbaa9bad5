"""What a bound costs: seconds and memory against the width and the depth of a network.

Run with `make bench-cost`; writes runs/cost.svg beside the table. Random ReLU nets from 64 inputs
to 10 outputs, and 784-1024-1024-10 for the memory of the recursion along the chain; every bound has
at most 60 seconds and ends with the best until then.
"""

import resource
import time
from pathlib import Path

import torch
from benchmarks.eclipse import eclipse_fast
from benchmarks.reference import gaussian
from rich.console import Console
from rich.table import Table

import holdfast
from holdfast.brackets.semidefinite import lipsdp_upper
from holdfast.sdp.chain.chain import chain_of
from holdfast.sdp.lift import normal_form

INPUTS = 64
WIDTHS = (64, 128, 256, 512, 1024)
DEPTHS = (2, 3, 5, 8, 12, 20)
OUT = Path("runs/cost.svg")


def measured(width: int, depth: int, inputs: int = INPUTS) -> dict:
    """Bound one net."""
    graph = holdfast.capture(gaussian(width, depth, inputs), torch.zeros(1, inputs).double())
    chain = chain_of(normal_form(graph, 4000))
    fast = eclipse_fast(chain)[0]
    wall, cpu = time.perf_counter(), time.process_time()
    value = min(lipsdp_upper(graph, 1e-3, 60.0))
    return {
        "inputs": inputs,
        "width": width,
        "depth": depth,
        "seconds": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "bound": value,
        "fast": value / fast,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def draw(rows: list[dict]) -> None:
    """Write both curves as one picture."""
    import altair as alt

    rows = [row for row in rows if row["inputs"] == INPUTS]
    by_width = [row for row in rows if row["depth"] == DEPTHS[0]]
    by_depth = [row for row in rows if row["width"] == WIDTHS[0]]
    charts = [
        alt.Chart(alt.Data(values=part))
        .mark_line(point=True)
        .encode(
            alt.X(f"{axis}:Q", title=title).scale(type="log", nice=False, padding=10),
            alt.Y("cpu:Q", title="CPU seconds").scale(type="log"),
        )
        .properties(width=300, height=220)
        for part, axis, title in (
            (by_width, "width", f"width ({DEPTHS[0]} hidden layers)"),
            (by_depth, "depth", f"hidden layers (width {WIDTHS[0]})"),
        )
    ]
    OUT.parent.mkdir(exist_ok=True)
    alt.hconcat(*charts).save(str(OUT))


def main() -> None:
    """Print the table and write the picture."""
    torch.set_num_threads(1)
    sizes = [(width, DEPTHS[0], INPUTS) for width in WIDTHS]
    sizes += [(WIDTHS[0], depth, INPUTS) for depth in DEPTHS[1:]]
    sizes.append((WIDTHS[-1], DEPTHS[0], 784))
    table = Table(
        "inputs", "width", "depth", "bound", "x ECLipsE-Fast", "wall s", "CPU s", "peak GB so far"
    )
    rows = []
    for width, depth, inputs in sizes:
        row = measured(width, depth, inputs)
        rows.append(row)
        table.add_row(
            str(inputs), str(width), str(depth), f"{row['bound']:.5g}", f"{row['fast']:.3f}",
            f"{row['seconds']:.2f}", f"{row['cpu']:.2f}", f"{row['peak']:.2f}",
        )  # fmt: skip
    draw(rows)
    Console().print(table)
    Console().print(f"{OUT}")


if __name__ == "__main__":
    main()
