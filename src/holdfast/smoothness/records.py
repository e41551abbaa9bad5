"""What was measured along a training run, and the file of JSON lines that holds it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.documents import decode
from holdfast.errors import InvalidInput
from holdfast.files import StrPath, check_path, plain, read_file, reason, strict_json


@dataclass(frozen=True)
class Measurement:
    """One step of an optimiser; what could not be measured, or was not finite, is None.

    Attributes:
        step: Its number in the run, from 0.
        learning_rate: Of the first parameter group.
        loss: Before the step, on the step's batch.
        actual_change: Loss in the updated variables minus `loss`, on the same batch.
        predicted_change: g.d + L |d|^2 / 2 in the optimiser's metric, for its move d; None where
            the curvature was not looked at in this step.
        along_step: Change of the gradient per distance moved; None where the curvature was not
            looked at in this step.
        sharpness: Largest eigenvalue of the Hessian in the metric, from below; every look improves
            on the direction of the one before. None where it was not looked at in this step.
        largest_safe_step: Largest stable learning rate for the curvature that was last seen; None
            where none was seen.
        ratio: learning_rate / largest_safe_step; the edge of stability is at 1.
        metric: Whose squared length of the move counts: `l2`, `Adam`, ...
        same_batch: Whether both losses are of one batch. If not, they are unknown: changes come
            from the gradients of this step and the next one, and hold the noise of both batches.
        rounding: What rounding of the losses in their own type may add to `actual_change`: half a
            unit in the last place of each, at least; 0 where only gradients are known.
    """

    step: int
    learning_rate: float
    loss: float | None
    actual_change: float | None
    predicted_change: float | None
    along_step: float | None
    sharpness: float | None
    largest_safe_step: float | None
    ratio: float | None
    metric: str
    same_batch: bool
    rounding: float | None = 0.0

    @property
    def improved(self) -> bool:
        """Whether the loss is lower in the updated variables, by more than rounding."""
        return self.actual_change is not None and self.actual_change < -(self.rounding or 0.0)


def share_improved(measurements: Sequence[Measurement]) -> float | None:
    """Return the share of the measured steps that improved the loss; None before the first."""
    if not measurements:
        return None
    return sum(one.improved for one in measurements) / len(measurements)


def line_of(measurement: Measurement) -> str:
    """Return a measurement as one line of JSON."""
    return json.dumps(plain(measurement), allow_nan=False) + "\n"


def read_measurements(path: StrPath) -> list[Measurement]:
    """Return the measurements of a file that a `DescentMonitor` wrote.

    Args:
        path: A file of JSON lines.

    Returns:
        The measurements in the order of the file; at least one.

    Raises:
        InvalidInput: When it cannot be read, or holds something else.
    """
    wanted, found = "a file that holdfast.DescentMonitor wrote", []
    for number, line in enumerate(
        read_file(check_path(path, "training"), "training", wanted).splitlines(), 1
    ):
        try:
            record = strict_json(line)
            if isinstance(record, dict):
                record.setdefault("rounding", 0.0)  # lines of earlier versions do not have it
            found.append(decode(Measurement, record, exact=False))
        except ValueError as problem:
            got = f"{str(path)!r} (line {number}: {reason(problem)})"
            raise InvalidInput("training", got, wanted) from problem
    if not found:
        raise InvalidInput("training", f"{str(path)!r}, which is empty", wanted)
    return found
