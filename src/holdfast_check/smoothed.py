"""Certificate files of smoothed models: does every radius follow from the votes in the file?"""

from fractions import Fraction
from typing import Any

from flint import arb, fmpq

from holdfast_check.files import conform, rational, require

_ROWS = {"radius": [float], "margin": [float], "predicted": [int], "labels": [int]}
_ROWS |= {"reason": [str]}
_NOISE = {"p": 0.0, "sigma": 2.0, "lam": 1.0}  # and the norm of its radii; 0 for edits


def recount(document: Any) -> tuple[int, int]:
    """Return how many rows a file has, and how many have a radius, each shown by its votes."""
    rows = conform({name: document.get(name) for name in _ROWS}, _ROWS, "document")
    require(isinstance(document.get("smoothing"), dict), "no votes")
    smoothing = {name: document["smoothing"].get(name) for name in ("votes", "drawn", "options")}
    options = smoothing.pop("options")
    votes = conform(smoothing, {"votes": [int], "drawn": [int]}, "smoothing")
    require(isinstance(options, dict) and isinstance(options.get("noise"), dict), "no options")
    kinds = [name for name in _NOISE if name in options["noise"]]
    require(len(kinds) == 1, "not one noise")
    (kind,) = kinds
    norm = conform(document.get("norm"), float, "norm")
    require(norm == _NOISE[kind], "the radii are in another norm than the noise is for")
    require(
        document.get("semantics") == "smoothed", "the semantics is not that of a smoothed model"
    )
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
        margin = rational(rows["margin"][k])
        claimed = [arb((margin + 1) / 2)] if margin > -1 else []
        claimed += [_needed(kind, sizes["size"], radius)] if radius > 0 else []
        fixed = options.get("epsilon") is None
        require(not claimed or not fixed or trials == most, f"row {k}: samples are missing")
        holds = all(_is_shown(hits, trials, p, alpha, fixed) for p in claimed)
        require(holds, f"row {k}: the votes do not show the radius and the margin")
    return len(rows["radius"]), sum(radius > 0 for radius in rows["radius"])


def _is_shown(hits: int, trials: int, p: arb, alpha: arb, fixed: bool) -> bool:
    """Return whether counts, of a fixed number of trials or at any time, show more than p."""
    if fixed:
        return bool(p.beta_lower(arb(hits), arb(trials - hits + 1), 1) < alpha)
    # 1 / chance is the martingale
    chance = (trials + 1) * arb(trials).bin(hits) * p**hits * (1 - p) ** (trials - hits)
    return bool(p * trials < hits and chance < alpha)


def _needed(kind: str, size: float, radius: float) -> arb:
    """Return the probability above which the label holds within a radius."""
    if kind == "p":  # of deletion: a whole number of edits
        require(rational(radius).q == 1 and size < 1, "edits that are no whole number")
        return arb(1.5) - arb(size) ** int(radius)
    ratio = arb(rational(radius)) / arb(rational(size))
    return (1 + (ratio / arb(2).sqrt()).erf()) / 2 if kind == "sigma" else arb(0.5) + ratio / 2
