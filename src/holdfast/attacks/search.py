"""The search: walks along the boundary, ascents inside the ball, and restarts.

All rows of a chunk move together, and only those that can still gain take part in a phase. Random
starts are the same for every row and drawn from a seed, so a call repeats itself exactly; the
other rows of a call change a row's result at most through the rounding of batched products.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from holdfast.attacks.ascent import ascend
from holdfast.attacks.boundary import nearest_rivals, walk
from holdfast.attacks.rows import Rows
from holdfast.types import Progress, Report, silent

_CHUNK = 256
"""Rows that move together: their values in the largest nodes of ordinary nets are a few 100 MB."""

_RIVALS = 3
"""Classes that every row walks towards: each costs as much as an ascent."""

_RESTARTS = 3
"""Ascents, the first from the row itself and the others from random starts."""


def search(
    rows: Rows,
    spent: Callable[[], bool] = lambda: False,
    report: Report = silent,
    seed: int = 0,
) -> tuple[Tensor, Tensor, bool]:
    """Look for the nearest adversarial of every row, or for one within their `epsilon`.

    Args:
        rows: N rows, finite, of a model that can be differentiated; they keep what is found. A row
            is done with once an adversarial is within `epsilon`; inf: look for the nearest.
        spent: Says when to stop; asked before every chunk of every phase.
        report: Called with the progress.
        seed: Of the random starts.

    Returns:
        [N], the model's answer at each row itself, -1 where its logits are not finite; [N] bool,
        whether the search reached the row before its time was spent; and whether the user
        interrupted it.
    """
    nearest = math.isinf(rows.epsilon)
    clean = answers(rows)
    right = clean == rows.labels
    tried = torch.zeros_like(right)
    phases = list(_phases(rows.center[:1], nearest, seed))
    whole = None  # what is found of a chunk, until all of it is kept
    try:
        for number, phase in enumerate(phases):
            unfinished = right & (torch.isinf(rows.distance) | nearest)
            for part in _parts(unfinished):
                done = number * len(right) + int(part[0])
                report(Progress("attacks", done, len(phases) * len(right)))
                if spent():
                    return clean, tried, False
                some = rows.take(part)
                phase(some)
                some.shrink()
                whole = part, some
                rows.put(*whole)
                tried[part] = True
    except KeyboardInterrupt:
        if whole is not None:
            rows.put(*whole)
        return clean, tried, True
    return clean, tried, False


def _parts(chosen: Tensor) -> tuple[Tensor, ...]:
    """Return the numbers of the chosen rows, chunk by chunk."""
    numbers = chosen.nonzero().flatten()
    return numbers.split(_CHUNK) if len(numbers) else ()


def answers(rows: Rows) -> Tensor:
    """Return the model's answer at each row itself, -1 where its logits are not finite, [N]."""
    with torch.no_grad():
        parts = _parts(rows.labels >= 0)
        logits = torch.cat([rows.model(rows.inputs[part]) for part in parts])
    return torch.where(torch.isfinite(logits).all(1), logits.argmax(1), -1)


def _phases(row: Tensor, nearest: bool, seed: int) -> Iterator[Callable[[Rows], None]]:
    """Yield what is done to all unfinished rows, in turn."""
    noises = [_noise(row, (_RESTARTS * seed + restart) % 2**63) for restart in range(_RESTARTS)]
    yield _approach
    if nearest:
        yield partial(_leap, noises=noises)
    for restart in range(_RESTARTS):
        # The first ascent starts at the row itself.
        noise = noises[restart] if restart else torch.zeros_like(row)

        def press(rows: Rows, noise: Tensor = noise) -> None:
            _press(rows, noise)
            if nearest:
                _resume(rows)

        yield press


def _noise(row: Tensor, seed: int) -> Tensor:
    """Return a random row, the same for all rows of a call."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(row.shape, generator=generator, dtype=torch.float64).to(row)


def _approach(rows: Rows) -> None:
    """Walk from the row towards each of the classes with the nearest boundary."""
    for rivals in nearest_rivals(rows, _RIVALS).T:
        walk(rows, rows.center, rivals)


def _leap(rows: Rows, noises: Sequence[Tensor]) -> None:
    """Where no gradient led anywhere, try points ever farther away."""
    if bool(torch.isfinite(rows.distance).all()):
        return
    some = rows.take(torch.isinf(rows.distance))
    size = _length(some.center, rows.norm).clamp(min=1.0)[:, None]
    for noise in noises:
        step = size * noise / _length(noise, rows.norm)
        for power in range(-4, 20):  # from a 16th of the row's size to 500,000 times it
            some.ask(some.center + step * 2.0**power)
            some.ask(some.center - step * 2.0**power)
    rows.put(torch.isinf(rows.distance), some)


def _press(rows: Rows, noise: Tensor) -> None:
    """Ascend within epsilon, or within a little less than the distance that is known."""
    # What is less than 3 % nearer is left to bisection.
    known = torch.where(torch.isfinite(rows.distance), 0.97 * rows.distance, rows.epsilon)
    wide = _length(rows.center, rows.norm).clamp(min=1.0)
    # A little inside: distances are rounded up before they are held against epsilon.
    radius = torch.where(torch.isfinite(known), (1.0 - 2.0**-20) * known, wide).to(noise.dtype)
    length = _length(noise, rows.norm)
    ascend(rows, radius, radius[:, None] * noise / torch.where(length > 0, length, 1.0))


def _resume(rows: Rows) -> None:
    """Walk on from the nearest adversarial that is known."""
    other = (rows.labels == 0).long()  # any class but the label, where nothing is known
    rivals = torch.where(torch.isfinite(rows.distance), rows.predicted, other)
    walk(rows, rows.adversarial, rivals)


def _length(rows: Tensor, norm: float) -> Tensor:
    return torch.linalg.vector_norm(rows, ord=norm, dim=1)
