"""What certificates claim, in one sentence."""

from collections.abc import Sequence

from holdfast.certificates.float32 import EXECUTION
from holdfast.graph.replay import BATCH_SIZES
from holdfast.moves import Moves
from holdfast.smoothing.options import SmoothingOptions
from holdfast.types import norm_name


def guarantee(norm: float, semantics: str, moves: Moves, reasons: Sequence[str]) -> str:
    """Return what radii claim, or bounds of change where there is no class.

    Args:
        norm: 1, 2 or inf.
        semantics: `real` or `float32`; empty where labels are targets.
        moves: What may move, in which units.
        reasons: Of the rows.
    """
    sizes = ", ".join(str(size) for size in BATCH_SIZES)
    tried = f"the captured graph did as the model does in batches of {sizes} rows like the first"
    near, ending = f"within {norm_name(norm)} distance", f"{moves.meaning}{tried}."
    ending += _stopped(reasons)
    if not semantics:
        return (
            f"W{near[1:]} epsilon of a row no output moves further than "
            f"`output_change(epsilon)`, for the exact real function of the stored weights; {ending}"
        )
    inputs, meaning = {
        "real": ("input", "exact real function of the stored weights"),
        "float32": ("float32 input", f"network {EXECUTION}"),
    }[semantics]
    return (
        f"Every {inputs} {near} `radius` of a certified row has the same largest logit as the row, "
        f"its label's, for the {meaning}; {ending}"
    )


def smoothed_guarantee(options: SmoothingOptions, reasons: Sequence[str]) -> str:
    """Return what radii of a smoothed model claim.

    Args:
        options: Noise and confidence.
        reasons: Of the rows.
    """
    noise, alpha = options.noise, options.alpha
    return (
        f"The smoothed model answers what the model says most often to copies with {noise}. To "
        f"every {noise.within} that is certified it gives the label, with a confidence of "
        f"{options.confidence!r} for each row by itself: about {1000 * float(alpha):g} in 1000 "
        "certified rows may be wrong. Nothing is said about the model without noise, and the "
        "generator's numbers are taken to be as random as the noise is meant to be."
        f"{_stopped(reasons)}"
    )


def _stopped(reasons: Sequence[str]) -> str:
    """Return a sentence about rows that were not done with, where there are any."""
    done = len(reasons) - reasons.count("stopped")
    if done == len(reasons):
        return ""
    return f" Stopped: {done} of {len(reasons)} rows; nothing is claimed about the others."
