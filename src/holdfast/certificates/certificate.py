"""Certified radii, row by row, with what exactly they claim."""

import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.documents import StrPath, read_json, write_whole
from holdfast.errors import InvalidInput
from holdfast.rounding import mul_up, sqrt_up
from holdfast.types import check_norm

_FORMAT = "holdfast.certificates/1"
_PER_ROW = ("radius", "margin", "predicted", "labels", "reason", "method")
_SCALARS = ("norm", "semantics", "guarantee", "fingerprint", "constant", "classes")


@dataclass(frozen=True, eq=False)
class Certificates:
    """One certificate per input row, in input order.

    Attributes:
        radius: [N] float64, in input units, rounded down: every input within this distance has
            the same predicted class, and it is the label's. 0 where nothing is certified.
        margin: [N] float64: lower bound of the label's logit minus the largest other one.
        predicted: [N] int64, class of the largest logit; -1 where the logits are not finite.
        labels: [N] int64.
        reason: Per row: `certified`, `misclassified`, `tie`, `within_rounding`, `not_finite`,
            `unbounded_constant`, `may_overflow`; every radius of 0 has one that says why.
        method: Per row: what gave the radius.
        norm: 1, 2 or inf.
        semantics: What a radius is about. `real`: the exact real function of the stored weights;
            `float32`: the network as executed, in any order of summation.
        guarantee: What a radius claims, in one sentence.
        fingerprint: SHA-256 of the model's weights.
        constant: Upper bound of the Lipschitz constant from inputs to logits.
        classes: Number of logits.
    """

    radius: Tensor
    margin: Tensor
    predicted: Tensor
    labels: Tensor
    reason: tuple[str, ...]
    method: tuple[str, ...]
    norm: float
    semantics: str
    guarantee: str
    fingerprint: str
    constant: float
    classes: int

    def __len__(self) -> int:
        return len(self.radius)

    @property
    def clean_accuracy(self) -> float:
        """Share of all rows whose predicted class is the label."""
        return float((self.predicted == self.labels).double().mean())

    def verified_accuracy(self, epsilon: float) -> float:
        """Return the share of all rows that are correct with a radius above `epsilon`.

        Args:
            epsilon: Distance in input units, at least 0.

        Raises:
            InvalidInput: When epsilon is negative or NaN.
        """
        _check_epsilon(epsilon)
        return float((self.radius > epsilon).double().mean())

    def curve(self) -> tuple[Tensor, Tensor]:
        """Return the verified accuracy against the distance, as a step function.

        Returns:
            Distances, from 0, ascending, and the share of rows with a larger radius, both
            float64 of one length; the share holds from its distance to the next.
        """
        finite = self.radius[torch.isfinite(self.radius)]
        distances = torch.cat([torch.zeros(1, dtype=torch.float64), finite]).unique()
        larger = len(self) - torch.searchsorted(self.radius.sort().values, distances, right=True)
        return distances, larger.double() / len(self)

    def output_change(self, epsilon: float) -> Tensor:
        """Return a proved bound of how far the logits can move within `epsilon`, in the norm.

        It is about the exact real function of the stored weights, whatever the semantics.

        Returns:
            [N] float64: sup ||f(x') - f(x)|| over ||x' - x|| <= epsilon, bounded above.
        """
        _check_epsilon(epsilon)
        bound = mul_up(self.constant, epsilon)
        return torch.full((len(self),), bound, dtype=torch.float64)

    def loss_change(self, epsilon: float) -> Tensor:
        """Return a proved bound of how far the cross entropy can move within `epsilon`.

        The gradient of the cross entropy in the logits is softmax minus one-hot: its l2 length is
        at most sqrt(2), its l1 length 2 and its largest entry 1.

        Returns:
            [N] float64, in nats.
        """
        steepest = {1.0: 1.0, 2.0: sqrt_up(2.0), math.inf: 2.0}[self.norm]
        bound = self.output_change(epsilon)
        return torch.nextafter(bound * steepest, torch.full_like(bound, math.inf))

    def counts(self) -> dict[str, int]:
        """Return how many rows have each reason, most first."""
        every = sorted(set(self.reason), key=lambda reason: -self.reason.count(reason))
        return {reason: self.reason.count(reason) for reason in every}

    def save(self, path: StrPath) -> None:
        """Write the certificates as JSON, all or nothing; floats are hexadecimal, so exact.

        Args:
            path: The file; one that is there is replaced.
        """
        document = {"format": _FORMAT} | {name: _hex(getattr(self, name)) for name in _SCALARS}
        document |= {name: _hex(getattr(self, name)) for name in _PER_ROW}
        write_whole(path, json.dumps(document, indent=1) + "\n", "path")

    @classmethod
    def load(cls, path: StrPath) -> "Certificates":
        """Return what `save` wrote.

        Raises:
            InvalidInput: When the file is not a certificate file of this version.
        """
        document = read_json(path, "path")
        wanted = {"format", *_SCALARS, *_PER_ROW}
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise InvalidInput("path", f"{str(path)!r}", f"a file with format {_FORMAT}")
        if set(document) != wanted:
            odd = ", ".join(sorted(set(document) ^ wanted))
            raise InvalidInput("path", f"missing or unknown entries {odd}", "those of `save`")
        del document["format"]
        try:
            loaded = cls(**{name: _from_hex(name, value) for name, value in document.items()})
        except (TypeError, ValueError, OverflowError, RuntimeError) as problem:
            raise InvalidInput("path", f"{str(path)!r} ({problem})", "valid entries") from problem
        if not loaded._coherent():
            raise InvalidInput(
                "path", f"{str(path)!r}", "entries that do not contradict each other"
            )
        return loaded

    def _coherent(self) -> bool:
        """Return whether every row has all its entries, and radii and reasons agree."""
        rows = len(self.radius)
        if any(len(getattr(self, name)) != rows for name in _PER_ROW) or not self.constant >= 0:
            return False
        numbers = bool((self.radius >= 0).all()) and not bool(self.margin.isnan().any())
        labels = bool(((self.labels >= 0) & (self.labels < self.classes)).all())
        pairs = zip(self.radius.tolist(), self.reason, strict=True)
        return numbers and labels and all((r > 0) == (why == "certified") for r, why in pairs)


def _check_epsilon(epsilon: float) -> None:
    if not epsilon >= 0:
        raise InvalidInput("epsilon", epsilon, "a distance, at least 0")


def _hex(value: Any) -> Any:
    if isinstance(value, Tensor):
        return [_hex(entry) for entry in value.tolist()]
    return value.hex() if isinstance(value, float) else value


def _from_hex(name: str, value: Any) -> Any:
    if name in ("radius", "margin"):
        return torch.tensor([float.fromhex(entry) for entry in value], dtype=torch.float64)
    if name in ("predicted", "labels"):
        if not all(isinstance(entry, int) for entry in value):
            raise TypeError(f"{name} are not whole numbers")
        return torch.tensor(value, dtype=torch.int64)
    if name in ("reason", "method"):
        if not isinstance(value, list):
            raise TypeError(f"{name} is not a list")
        return tuple(map(str, value))
    if name in ("norm", "constant"):
        number = float.fromhex(value)
        return check_norm(number) if name == "norm" else number
    return int(value) if name == "classes" else str(value)
