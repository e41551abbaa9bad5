"""The l2 constant of a net too large for one matrix: LipSDP on blocks, then their product.

Between two blocks a value is measured by a norm with a weight for every channel, so that the gains
of the blocks multiply: |t y|^2 <= g |s x|^2 block by block. What has no block form keeps the
product of the gains of its operations.
"""

import functools
import itertools
import math
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from holdfast.brackets.budget import Skipped, products_a_second
from holdfast.brackets.gain import gain_upper
from holdfast.errors import Unsupported
from holdfast.graph.ir import Graph
from holdfast.rounding import mul_up, sqrt_up
from holdfast.sdp.blocks.cut import blocks
from holdfast.sdp.blocks.lift import BlockForm, block_form
from holdfast.sdp.blocks.plan import Plan, plan
from holdfast.sdp.blocks.proof import Block, block_upper
from holdfast.sdp.blocks.search import Found, first_multipliers, lower_product
from holdfast.sdp.form import TOO_EXTREME
from holdfast.threads import one_thread

_PASS = 3.5
"""Products that first multipliers and a proof take, for each frequency, in cubes of the size of the
matrix: measured."""


def blockwise_upper(graph: Graph, seconds: float, skipped: Skipped) -> Iterator[float]:
    """Yield proved upper bounds of the l2 constant from blocks, for all inputs.

    Args:
        graph: Captured model.
        seconds: Time to spend: what does not fit is not begun.
        skipped: Told what does not fit.

    Yields:
        Ever lower proved bounds.
    """
    end = time.perf_counter() + seconds
    try:
        with one_thread():
            yield from _Blocks(graph.double().pruned(), seconds, skipped).bounds(end)
    except (Unsupported, *TOO_EXTREME):
        return


class _Blocks:
    """A net in blocks.

    Args:
        graph: In float64.
        seconds: Time to spend.
        skipped: Told what does not fit.
    """

    def __init__(self, graph: Graph, seconds: float, skipped: Skipped) -> None:
        self.skipped = skipped
        # Two passes, and a search between them.
        self.room = 0.35 * seconds * products_a_second()
        for share in (1.0, 0.3, 0.1):  # the largest block is most of the work, or one of several
            self.parts = blocks(graph, functools.partial(self._fits, room=share * self.room))
            self.plans = [_plan(part) for part in self.parts]
            self.work = sum(_work(laid) for laid in self.plans if laid is not None)
            if self.work <= self.room:
                break
        shapes = [graph.perturbed_input.shape, *[part[part.output].shape for part in self.parts]]
        self.channels = [shape[0] if shape else 1 for shape in shapes]

    def _fits(self, part: Graph, room: float) -> bool:
        laid = _plan(part)
        return laid is not None and _work(laid) <= room and _numbers(laid) < 1e8

    def bounds(self, end: float) -> Iterator[float]:
        """Yield the bound of the first multipliers, and that of the best."""
        if self.work > self.room:
            needed = self.work / 0.35 / products_a_second()
            self.skipped(f"LipSDP on blocks was left out: it takes about {needed:.2g} s")
            return
        if not any(laid and laid.units for laid in self.plans):
            why = "no block of two layers fits into its time and memory"
            self.skipped(f"LipSDP on blocks was left out: {why}")
            return
        start = time.perf_counter()
        forms = [self._form(part, laid) for part, laid in zip(self.parts, self.plans, strict=True)]
        gains = [
            gain_upper(part, 2.0) if form is None else math.inf
            for part, form in zip(self.parts, forms, strict=True)
        ]
        found = self._first(forms)
        yield _product(forms, gains, found)
        spent = time.perf_counter() - start
        better = self._search(forms, found, end - 0.7 * spent)
        if better is not found:
            yield _product(forms, gains, better)

    def _search(self, forms: Sequence[BlockForm | None], first: Found, end: float) -> Found:
        """Lower the product at a few frequencies, and add those where it is then largest."""
        best, last = first, first
        every = _gains(forms, first)
        least = _logarithm(every)
        chosen = [_choose(form, gains) for form, gains in zip(forms, every, strict=True)]
        rounds = ((3, 4), (4, 5), (5, 6), (6, 7), (7,), (7,))
        for number, doublings in enumerate(rounds):
            few = [
                None if form is None else form.at(which)
                for form, which in zip(forms, chosen, strict=True)
            ]
            now = time.perf_counter()
            until = now + (end - now) / (len(rounds) - number)
            last = lower_product(few, last, until, doublings)
            every = _gains(forms, last)
            while math.isinf(_logarithm(every)):
                # At a frequency that was not looked at, these multipliers bound nothing.
                chosen = [_more(which, gains) for which, gains in zip(chosen, every, strict=True)]
                last = last.towards(best, 0.3)
                every = _gains(forms, last)
                if time.perf_counter() > end:
                    return best
            if _logarithm(every) < least:
                best, least = last, _logarithm(every)
            chosen = [_more(which, gains) for which, gains in zip(chosen, every, strict=True)]
            if time.perf_counter() > end:
                break
        return best

    def _form(self, part: Graph, laid: Plan | None) -> BlockForm | None:
        if laid is None:
            return None
        try:
            return block_form(part, laid)
        except Unsupported:
            return None

    def _first(self, forms: Sequence[BlockForm | None]) -> Found:
        """Return weights of 1 and the first multipliers."""
        weights = [torch.zeros(count, dtype=torch.float64) for count in self.channels]
        held = [
            True,
            *[a is None or b is None for a, b in itertools.pairwise(forms)],
            True,
        ]
        nothing = torch.zeros(0, dtype=torch.float64)
        multipliers = [
            nothing
            if form is None
            else first_multipliers(_spread(form), weights[k].exp(), weights[k + 1].exp()).log()
            for k, form in enumerate(forms)
        ]
        return Found(weights, multipliers, held)


def _plan(part: Graph) -> Plan | None:
    try:
        return plan(part)
    except Unsupported:
        return None


def _work(laid: Plan) -> float:
    """Return the products of float64 numbers that one pass over a block takes."""
    complex_ones = 4.0 if laid.places else 1.0
    return _PASS * complex_ones * laid.frequencies * float(laid.size) ** 3


def _numbers(laid: Plan) -> float:
    """Return the float64 numbers that a block holds."""
    return 4.0 * laid.frequencies * float(laid.size) ** 2


def _spread(form: BlockForm, count: int = 16) -> BlockForm:
    """Return the form at some frequencies, far apart."""
    last = form.frequencies - 1
    return form.at(torch.linspace(0, last, min(count, last + 1)).long())


def _gains(forms: Sequence[BlockForm | None], found: Found) -> list[Tensor]:
    """Return about the gain of each block at each frequency; 1 where it is fixed."""
    return [
        torch.ones(1, dtype=torch.float64)
        if form is None
        else Block(
            form,
            found.weights[k].exp(),
            found.weights[k + 1].exp(),
            found.multipliers[k].exp(),
        ).gains()
        for k, form in enumerate(forms)
    ]


def _logarithm(gains: Sequence[Tensor]) -> float:
    """Return the logarithm of the product of largest gains."""
    return sum(math.log(max(float(part.max()), 1e-300)) for part in gains)


def _choose(form: BlockForm | None, gains: Tensor) -> Tensor:
    """Return frequencies to look at: those with the largest gains, and others far apart."""
    if form is None:
        return torch.zeros(0, dtype=torch.long)
    # A step takes a fraction of a second.
    count = int(5e8 / float(form.inputs + form.units) ** 3)
    count = min(max(6, count), len(gains))
    spread = torch.linspace(0, len(gains) - 1, count).long()
    return torch.cat([gains.topk(min(3, len(gains))).indices, spread]).unique()


def _more(chosen: Tensor, gains: Tensor) -> Tensor:
    """Add the frequencies with the largest gains."""
    return torch.cat([chosen, gains.topk(min(3, len(gains))).indices]).unique()


def _product(forms: Sequence[BlockForm | None], gains: Sequence[float], found: Found) -> float:
    """Return the proved bound of the product of blocks."""
    total = 1.0
    for k, form in enumerate(forms):
        if form is None:
            total = mul_up(total, gains[k], gains[k])
            continue
        before, after = found.weights[k].exp(), found.weights[k + 1].exp()
        total = mul_up(total, block_upper(form, before, after, found.multipliers[k].exp()))
    return sqrt_up(total) if math.isfinite(total) else math.inf
