"""What a monitor costs: seconds of training with one over seconds without.

Run with `make bench-descent`. Segments of 200 steps with and without a monitor (`every=50`) follow
each other, so that both meet the same machine; the ratio is the median over the pairs, in CPU time.
Random data, ReLU nets 64-width-width-10. Asked: at most 10 %.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import product

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, Optimizer

import holdfast

OPTIMIZERS = {
    "SGD": partial(SGD, lr=0.05),
    "momentum": partial(SGD, lr=0.01, momentum=0.9),
    "Adam": partial(Adam, lr=1e-3),
}
BATCHES, WIDTHS = (64, 256), (64, 256)
STEPS, PAIRS, EVERY = 200, 15, 50


class Training:
    """A training run that can be continued in segments."""

    def __init__(self, kind: Callable[..., Optimizer], batch: int, width: int) -> None:
        torch.manual_seed(0)
        hidden = (nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.model = nn.Sequential(*hidden, nn.Linear(width, 10))
        self.optimizer = kind(self.model.parameters())
        self.rows, self.labels = torch.randn(4096, 64), torch.randint(10, (4096,))
        self.picks = torch.randint(4096, (STEPS, batch))
        self.batch = self.rows[:batch], self.labels[:batch]

    def loss(self) -> Tensor:
        """Return the loss of the present batch."""
        return cross_entropy(self.model(self.batch[0]), self.batch[1])

    def seconds(self, watched: bool) -> float:
        """Return the CPU seconds of one segment."""
        watch = partial(holdfast.DescentMonitor, self.optimizer, EVERY, self.loss)
        begun = time.process_time()
        with watch() if watched else nullcontext():
            for pick in self.picks:
                self.batch = self.rows[pick], self.labels[pick]
                self.optimizer.zero_grad()
                self.loss().backward()
                self.optimizer.step()
        return time.process_time() - begun


def rows() -> Iterator[tuple[str, int, int, float, float]]:
    """Return optimiser, batch, width, microseconds of a step and the share added."""
    for name, batch, width in product(OPTIMIZERS, BATCHES, WIDTHS):
        training = Training(OPTIMIZERS[name], batch, width)
        training.seconds(watched=True)  # what is loaded and compiled once
        pairs = [(training.seconds(False), training.seconds(True)) for _ in range(PAIRS)]
        ratio = statistics.median(on / off for off, on in pairs)
        step = statistics.median(off for off, _ in pairs) / STEPS
        yield name, batch, width, 1e6 * step, ratio - 1


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", holdfast.HoldfastWarning)
    table = Table("optimiser", "batch", "width", "step, us", f"added, every={EVERY}")
    for name, batch, width, step, added in rows():
        table.add_row(name, str(batch), str(width), f"{step:.0f}", f"{added:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
