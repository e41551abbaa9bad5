"""Certificates attacked by the thousand, on nets where they are all but exact.

    python -m benchmarks.attacked [COUNT]

COUNT certificates of each semantics, 10,000 unless told, 1,000,000 for the long run. It prints, as
it goes, how many were attacked, how many attacks came inside the radius that was certified (it
must stay at 0), and how near the nearest came. For float32 the same attacks are also held against
the radius of the exact function, which they must be able to break.
"""

import itertools
import math
import sys
import time

from rich.console import Console
from tests.aligned import attack_exact, attack_executed
from torch import set_num_threads

ROWS = 500
SHOWN = 10_000
"""A line whenever so many more were attacked."""


def exact(count: int, console: Console) -> None:
    """Attack certificates of the exact function."""
    attacked = inside = 0
    nearest, start = math.inf, time.perf_counter()
    for turn in itertools.count():
        distance, radius = attack_exact(turn // 2, ROWS, (2.0, math.inf)[turn % 2])
        ratio = (distance / radius)[radius > 0]
        inside += int((~(ratio > 1)).sum())
        nearest = min(nearest, float(ratio.min()))
        before, attacked = attacked, attacked + len(ratio)
        if attacked // SHOWN > before // SHOWN or attacked >= count:
            spent = time.perf_counter() - start
            console.print(
                f"real: {attacked} attacked, {inside} inside, nearest at {nearest:.9f} of the "
                f"radius, {spent:.0f} s"
            )
        if attacked >= count:
            return


def executed(count: int, console: Console) -> None:
    """Attack certificates of the network as executed."""
    attacked = inside = broken = 0
    start = time.perf_counter()
    for seed in itertools.count():
        real, flipped, certified = attack_executed(seed, ROWS, 8 + seed % 9)
        broken, inside = broken + real, inside + flipped
        before, attacked = attacked, attacked + certified
        if attacked // SHOWN > before // SHOWN or attacked >= count:
            spent = time.perf_counter() - start
            console.print(
                f"float32: {attacked} attacked, {inside} inside ({broken} inside the radius of "
                f"the exact function), {spent:.0f} s"
            )
        if attacked >= count:
            return


def main() -> None:
    """Attack as many as asked."""
    set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    console = Console(width=100, highlight=False)
    exact(count, console)
    executed(count, console)


if __name__ == "__main__":
    main()
