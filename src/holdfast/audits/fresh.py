"""What the audited rows say about fresh inputs: intervals for shares and medians, exact for any n.

Sources: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of
the binomial", Biometrika, 1934; for the median, the same tail bounds how many of n independent
values lie on either side of it (David and Nagaraja, "Order Statistics", 2003, section 7.1).
"""

from typing import Any

from torch import Tensor

from holdfast.knowledge_continuity.evidence.binomial import binomial_upper

LEVEL = 0.95
"""Confidence of each interval on its own; the page writes it beside them."""


def share_of(count: int, total: int) -> dict[str, Any]:
    """Return a share of the rows, with an interval for the share of all fresh inputs.

    Args:
        count: How many rows it is true of.
        total: How many rows there are, drawn independently, at least 1.

    Returns:
        `share`, `count`, `low` and `high`.

    >>> found = share_of(5, 10)
    >>> round(found["low"], 4), found["share"], round(found["high"], 4)
    (0.1871, 0.5, 0.8129)
    """
    tail = (1 - LEVEL) / 2
    low = 1.0 - binomial_upper(total - count, total, tail)
    high = binomial_upper(count, total, tail)
    return {"share": count / total, "count": count, "low": low, "high": high}


def median_interval(values: Tensor) -> list[float | None]:
    """Return an interval for the median over all fresh inputs.

    Args:
        values: [N], those of the rows, which were drawn independently; at least 0, may be inf.

    Returns:
        Two of the values: the median lies outside with probability at most 1 - `LEVEL`. Where there
        are too few rows to say so, the ends are 0 and None.

    >>> import torch
    >>> median_interval(torch.arange(1.0, 11.0))
    [2.0, 9.0]
    >>> median_interval(torch.tensor([1.0, 2.0]))
    [0.0, None]
    """
    ordered, total = values.sort().values.tolist(), len(values)
    # The k-th smallest exceeds the median only where fewer than k values are at most the median,
    # each of which has probability 1/2 or more: it may, as long as k - 1 hits rule out 1/2.
    tail = (1 - LEVEL) / 2
    outside = sum(binomial_upper(hits, total, tail) < 0.5 for hits in range(total))
    if not outside:
        return [0.0, None]
    return [ordered[outside - 1], ordered[total - outside]]


def shares_at(values: Tensor, distances: list[float]) -> list[dict[str, Any]]:
    """Return the share of rows whose value is larger than each distance; see `share_of`."""
    counts = [int((values > distance).sum()) for distance in distances]
    return [
        {"distance": distance, **share_of(count, len(values))}
        for distance, count in zip(distances, counts, strict=True)
    ]
