"""Certificate files of smoothed models: does every radius follow from the votes in the file?"""

from fractions import Fraction
from typing import Any

from flint import arb, fmpq

from holdfast_check.files import conform, rational, require

_ROWS = {"radius": [float], "predicted": [int], "labels": [int], "reason": [str]}
_NOISE = ("p", "sigma", "lam")


def recount(document: Any) -> tuple[int, int]:
    """Return how many rows a file has, and how many have a radius, each shown by its votes."""
    rows = conform({name: document.get(name) for name in _ROWS}, _ROWS, "document")
    require(isinstance(document.get("smoothing"), dict), "no votes")
    smoothing = {name: document["smoothing"].get(name) for name in ("votes", "drawn", "options")}
    options = smoothing.pop("options")
    votes = conform(smoothing, {"votes": [int], "drawn": [int]}, "smoothing")
    require(isinstance(options, dict) and isinstance(options.get("noise"), dict), "no options")
    kind = next((name for name in _NOISE if name in options["noise"]), "")
    sizes = {"confidence": options.get("confidence"), "size": options["noise"].get(kind)}
    sizes = conform(sizes, {"confidence": float, "size": float}, "options")
    most = conform(options.get("samples"), int, "options.samples")
    require(len({len(column) for column in (*rows.values(), *votes.values())}) == 1, "odd rows")
    require(0 < sizes["confidence"] < 1 and sizes["size"] > 0, "no confidence or no noise")
    # The confidence as it is written, such as 0.999.
    share = 1 - Fraction(repr(sizes["confidence"]))
    alpha = arb(fmpq(share.numerator, share.denominator))
    for k, radius in enumerate(rows["radius"]):
        hits, trials = votes["votes"][k], votes["drawn"][k]
        require(0 <= hits <= trials <= most and radius >= 0, f"row {k}: odd counts")
        right = rows["predicted"][k] == rows["labels"][k] and rows["reason"][k] == "certified"
        require(right == (radius > 0), f"row {k} contradicts itself")
        if radius > 0:
            p = _needed(kind, sizes["size"], radius)
            if options.get("epsilon") is None:
                require(trials == most, f"row {k}: samples that were not all to be drawn")
                chance = p.beta_lower(arb(hits), arb(trials - hits + 1), 1)
            else:  # 1 / chance is the martingale
                require(p * trials < hits, f"row {k}: too few votes")
                chance = (trials + 1) * arb(trials).bin(hits) * p**hits * (1 - p) ** (trials - hits)
            require(chance < alpha, f"row {k}: the votes do not show the radius")
    return len(rows["radius"]), sum(radius > 0 for radius in rows["radius"])


def _needed(kind: str, size: float, radius: float) -> arb:
    """Return the probability above which the label holds within a radius."""
    if kind == "p":  # of deletion: a whole number of edits
        require(rational(radius).q == 1 and size < 1, "edits that are no whole number")
        return arb(1.5) - arb(size) ** int(radius)
    ratio = arb(rational(radius)) / arb(rational(size))
    return (1 + (ratio / arb(2).sqrt()).erf()) / 2 if kind == "sigma" else arb(0.5) + ratio / 2
