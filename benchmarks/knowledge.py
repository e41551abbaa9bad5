"""The pass over pairs: beside a plain blockwise version and the authors' script.

    make bench-knowledge

The script is the one that the paper's authors published (GitHub alansun17904/kc, `k0_dist.py`);
`HOLDFAST_KC` names a folder with it, and without one it is left out. It runs as it is, in its own
process, with stand-ins for the progress bars and the compiler that it imports and does not use.
"""

import functools
import os
import pickle
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from holdfast.knowledge_continuity.evidence.bins import Bins
from holdfast.knowledge_continuity.evidence.grid import Grid
from holdfast.knowledge_continuity.pairs.kernels import Kernel
from holdfast.knowledge_continuity.pairs.pairs import Question, pair_sums
from holdfast.knowledge_continuity.pairs.points import Points

WIDTH = 768
DISTANCES, CHANGES = 32, 16
STAND_INS = {
    "tqdm.py": "def tqdm(values, **_):\n    return values\n",
    "numba.py": "jit = lambda *a, **k: lambda f: f\nprange = range\n",
    "numba_progress.py": "ProgressBar = None\n",
}
BESIDE = 1000
MOST = 20_000
TURNS = 7

Data = tuple[Tensor, Tensor, Tensor]


def rows(n: int) -> Data:
    """Return states of norm 29, losses and labels."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(n, WIDTH, generator=generator) * 29 / WIDTH**0.5
    losses = torch.rand(n, generator=generator)
    return states, losses, torch.randint(2, (n,), generator=generator)


def edges() -> tuple[Tensor, Tensor]:
    """Return the edges of the grid, in distance and in loss change."""
    return torch.linspace(2, 60, DISTANCES), torch.linspace(0.05, 0.95, CHANGES)


def plain(data: Data, counting: bool, block: int = 1024) -> Tensor:
    """The obvious blockwise version, all in float32: pointwise volatility, and counts if asked."""
    states, losses, _ = data
    squares, (distances, changes) = states.square().sum(1), edges()
    totals = torch.zeros(len(states))
    counts = torch.zeros((DISTANCES + 1) * (CHANGES + 1), dtype=torch.int64)
    for i in range(0, len(states), block):
        for j in range(i, len(states), block):
            a, b = slice(i, i + block), slice(j, j + block)
            gap = squares[a, None] + squares[b] - 2 * states[a] @ states[b].T
            gap = gap.clamp_(min=0).sqrt_()
            change = (losses[a, None] - losses[b]).abs_()
            slope = torch.where(gap > 0, change / gap, 0.0)
            totals[a] += slope.sum(1)
            if j > i:
                totals[b] += slope.sum(0)
            if not counting:
                continue
            codes = torch.bucketize(gap, distances) * (CHANGES + 1)
            codes += torch.bucketize(change, changes)
            counts += torch.bincount(codes.view(-1), minlength=len(counts))
    return totals / (len(states) - 1)


def ours(data: Data, counting: bool) -> Tensor:
    """The pass of the library with everything that it gives; counts if asked."""
    grid = None
    if counting:
        grid = Grid(*map(Bins, edges()), torch.zeros(len(data[0]), dtype=torch.int64))
    sums = pair_sums(Points(*data), Question("euclidean", Kernel(), 20.0, 0.4, grid))
    return sums.total / sums.pairs


def cpu_seconds(*works: Callable[[], object]) -> list[float]:
    """Return the median CPU seconds of each, taken in turns so that all meet the same machine."""
    seconds = [[] for _ in works]
    for _ in range(TURNS):
        for work, spent in zip(works, seconds, strict=True):
            start = time.process_time()
            work()
            spent.append(time.process_time() - start)
    return [statistics.median(spent) for spent in seconds]


def theirs(folder: Path, data: Data) -> float:
    """Return the CPU seconds of the authors' script, its worker processes included."""
    states, losses, labels = data
    chances = torch.stack([1 - losses, losses], 1).clamp(1e-6)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for file, text in STAND_INS.items():
            (work / file).write_text(text)
        with (work / "labels.pkl").open("wb") as file:
            pickle.dump(labels.tolist(), file)
        with (work / "net-k0.pkl").open("wb") as file:
            pickle.dump([(chances.log(), [states])], file)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, str(folder / "k0_dist.py"), name, "net", "0"]
        subprocess.run(
            command, env={**os.environ, "PYTHONPATH": name}, check=True, stdout=subprocess.DEVNULL
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    folder = os.environ.get("HOLDFAST_KC")
    titles = ("rows", "ours", "blockwise", "ours, counting", "blockwise, counting", "GB")
    table = Table(*titles, title=f"CPU s: one layer, d = {WIDTH}, grid {DISTANCES} x {CHANGES}")
    for n in (500, BESIDE, 2000, 4000, MOST):
        data = rows(n)
        works = [
            functools.partial(work, data, counting)
            for counting in (False, True)
            for work in ((ours, plain) if n < MOST else (ours,))
        ]
        spent = [f"{seconds:.3f}" for seconds in cpu_seconds(*works)]
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if n == MOST:
            spent = [spent[0], "-", spent[1], "-"]
        table.add_row(str(n), *spent, f"{memory:.2f}")
        if folder and n == BESIDE:
            script, mine = theirs(Path(folder), data), float(spent[2])
            table.caption = (
                f"the authors' script, {n} rows: {script:.1f}, {script / mine:.0f} times"
            )
    Console().print(table)


if __name__ == "__main__":
    main()
