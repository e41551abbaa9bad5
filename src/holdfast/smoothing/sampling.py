"""Votes of a model on disturbed copies of every row: as many as are needed, and from seeds."""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from holdfast.errors import Obstacle, Unsupported
from holdfast.types import Progress, Report, silent

Answer = Callable[[list[Any]], Tensor]
"""From samples to their classes, int64 [n]; -1 where there is none."""


@dataclass(frozen=True)
class Plan:
    """How many samples are drawn of a row.

    Attributes:
        draw: From a row and a generator to a disturbed copy.
        choosing: So many samples choose the class; others are counted.
        most: Samples of a row that are counted at most.
        decided: Whether counts, of votes and of samples, say what is asked for, so that no more are
            drawn; None where all are to be drawn.
        batch: Samples that the model answers to at once.
    """

    draw: Callable[[Any, Generator], Any]
    choosing: int
    most: int
    decided: Callable[[int, int], bool] | None
    batch: int

    def steps(self) -> Iterator[int]:
        """Yield how many samples are counted before each look at the counts.

        A look costs nothing in confidence, and steps of a fifth draw a fifth too many at worst.
        """
        total = min(self.most, 50)
        while self.decided is not None and total < self.most:
            yield total
            total = min(self.most, total + total // 5)
        yield self.most


@dataclass(frozen=True, eq=False)
class Tally:
    """Votes, row by row.

    Attributes:
        chosen: [N] int64, the class that most of the choosing samples got; -1 where none got any.
        votes: [N] int64, how many of the counted samples got this class.
        drawn: [N] int64, how many samples were counted.
        finished: Per row: whether all of its samples were drawn that were to be.
    """

    chosen: Tensor
    votes: Tensor
    drawn: Tensor
    finished: tuple[bool, ...]


class _Row:
    """What is known of a row so far."""

    def __init__(self, row: Any, seed: int, label: int) -> None:
        self.row, self.seed, self.label = row, seed, label
        self.generator = Generator()
        self.chosen, self.finished = -1, False
        # Votes and samples change in one step, so that Ctrl-C never falls between them.
        self.counts: tuple[int, int] = (0, 0)


def row_seed(seed: int, content: bytes) -> int:
    """Return the seed of a row: its samples depend on what it holds, and not on where it stands."""
    digest = hashlib.sha256(f"{seed} ".encode() + content).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def tally(
    rows: Sequence[Any],
    seeds: Sequence[int],
    labels: Sequence[int],
    answer: Answer,
    plan: Plan,
    report: Report = silent,
) -> Tally:
    """Count votes. Where Ctrl-C ends it, rows keep what was counted of them until then.

    The samples of a row come one by one from its own generator, so they do not depend on batches or
    on other rows.

    Args:
        rows: What is disturbed.
        seeds: One for each row.
        labels: One for each row: where another class is chosen, nothing is counted.
        answer: The model.
        plan: How many samples are drawn.
        report: Called with the progress.

    Returns:
        The counts of every row.

    Raises:
        Unsupported: When the model answers something else to the same samples in another order.
        KeyboardInterrupt: When the user interrupts before any row is done.
    """
    known = [_Row(*each) for each in zip(rows, seeds, labels, strict=True)]
    done = 0
    try:
        _check_repeats(answer, known[0], plan)
        # Where rows end early, so many at a time fill the batches until few are undecided.
        together = 256 if plan.decided else 1 + plan.batch // plan.most
        for start in range(0, len(known), together):
            part = known[start : start + together]
            for each in part:
                each.generator.manual_seed(each.seed)
            for one, classes in _voted([(each, plan.choosing) for each in part], answer, plan):
                one.chosen = _most_frequent(classes)
                one.finished = one.chosen != one.label
            for total in plan.steps():
                due = [each for each in part if not each.finished]
                report(Progress("samples", done + len(part) - len(due), len(known)))
                asked = [(each, total - each.counts[1]) for each in due]
                for one, classes in _voted(asked, answer, plan):
                    votes = one.counts[0] + int((classes == one.chosen).sum())
                    one.counts = (votes, total)
                    over = plan.decided is not None and plan.decided(*one.counts)
                    one.finished = over or total == plan.most
            done += len(part)
            report(Progress("samples", done, len(known)))
    except KeyboardInterrupt:
        if not any(each.finished for each in known):
            raise
    votes, drawn = torch.tensor([each.counts for each in known]).unbind(1)
    chosen = torch.tensor([each.chosen for each in known])
    return Tally(chosen, votes, drawn, tuple(each.finished for each in known))


def _voted(
    asked: Sequence[tuple[_Row, int]], answer: Answer, plan: Plan
) -> Iterator[tuple[_Row, Tensor]]:
    """Yield rows with the classes of so many more samples, once all of these are known."""
    queue = (each for each, count in asked for _ in range(count))
    found = [torch.empty(0, dtype=torch.int64)]
    while some := [*itertools.islice(queue, plan.batch)]:
        found.append(answer([plan.draw(each.row, each.generator) for each in some]))
    classes, start = torch.cat(found), 0
    for each, count in asked:
        yield each, classes[start : start + count]
        start += count


def _check_repeats(answer: Answer, first: _Row, plan: Plan) -> None:
    """Refuse a model whose answers depend on chance, or on the samples beside one.

    Raises:
        Unsupported: When the same samples, in another order, get other classes.
    """
    generator = Generator().manual_seed(first.seed)
    samples = [plan.draw(first.row, generator) for _ in range(min(plan.choosing, plan.batch))]
    if not torch.equal(answer(samples), answer(samples[::-1]).flip(0)):
        why = "the same samples in another order got other classes"
        advice = "an answer must not depend on chance, on earlier calls or on the rows beside it"
        raise Unsupported("smoothing", [Obstacle("", "model", why, advice)])


def _most_frequent(classes: Tensor) -> int:
    """Return the most frequent class, the smallest of several; -1 where there is none."""
    some = classes[classes >= 0]
    return int(some.bincount().argmax()) if len(some) else -1
