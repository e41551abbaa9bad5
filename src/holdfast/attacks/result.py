"""The nearest adversarials of every row, with what exactly they show."""

import base64
import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.arguments import check_norm, check_number
from holdfast.errors import InvalidInput
from holdfast.files import StrPath, read_json, write_whole

_FORMAT = "holdfast.attacks/1"
_PER_ROW = ("distance", "adversarial", "predicted", "labels", "reason")
_SCALARS = ("norm", "epsilon", "fingerprint")
_TYPES = {"float32": torch.float32, "float64": torch.float64}
REASONS = ("found", "misclassified", "none_found", "not_finite", "not_attacked")


@dataclass(frozen=True, eq=False)
class Attacks:
    """One attack per input row, in input order.

    Attributes:
        distance: [N] float64, in input units: how far the adversarial is from its row as both are
            stored, rounded up, so that there is an adversarial within this distance; 0 for a row
            that is wrong to begin with, inf where none was found.
        adversarial: [N, ...], in the model's type: an input that the model, run on it, does not
            give the label; the row itself where there is none.
        predicted: [N] int64, the model's answer there; -1 where its logits are not finite.
        labels: [N] int64.
        reason: Per row: `found`, `misclassified` (nothing has to be moved), `none_found` (which
            does not show that there is none), `not_finite` (the row or its logits), or
            `not_attacked` (the time was spent before).
        norm: 1, 2 or inf.
        epsilon: Distance within which adversarials were looked for; inf: the nearest ones.
        fingerprint: SHA-256 of the model's weights.
    """

    distance: Tensor
    adversarial: Tensor
    predicted: Tensor
    labels: Tensor
    reason: tuple[str, ...]
    norm: float
    epsilon: float
    fingerprint: str

    def __len__(self) -> int:
        return len(self.distance)

    @property
    def success(self) -> Tensor:
        """[N] bool: whether an input that is not given the label is known, the row included."""
        return torch.isfinite(self.distance)

    def accuracy_under_attack(self, epsilon: float) -> float:
        """Return the share of all rows that are right and for which no attack within `epsilon` won.

        It is an upper bound of the share that is right everywhere within `epsilon`, as the model
        is executed.

        Args:
            epsilon: Distance in input units, at least 0 and at most the one that was attacked.

        Raises:
            InvalidInput: When it is not.
        """
        wanted = f"a distance from 0 to {self.epsilon:g}"
        epsilon = check_number("epsilon", epsilon, lambda e: 0 <= e <= self.epsilon, wanted)
        return float((self._surviving() > epsilon).double().mean())

    def curve(self) -> tuple[Tensor, Tensor]:
        """Return the accuracy under attack against the distance, as a step function.

        Returns:
            Distances, from 0, ascending, and the share of rows that survive them, both float64 of
            one length; the share holds from its distance to the next.
        """
        surviving = self._surviving()
        finite = surviving[torch.isfinite(surviving)]
        distances = torch.cat([torch.zeros(1, dtype=torch.float64), finite]).unique()
        larger = len(self) - torch.searchsorted(surviving.sort().values, distances, right=True)
        return distances, larger.double() / len(self)

    def _surviving(self) -> Tensor:
        """Return up to which distance each row survived; 0 where its logits are not finite."""
        unknown = torch.tensor([reason == "not_finite" for reason in self.reason])
        return torch.where(unknown, 0.0, self.distance)

    def counts(self) -> dict[str, int]:
        """Return how many rows have each reason, most first."""
        every = sorted(set(self.reason), key=lambda reason: -self.reason.count(reason))
        return {reason: self.reason.count(reason) for reason in every}

    def summary(self) -> dict[str, Any]:
        """Return everything but the adversarials, for a JSON document."""
        names = ("distance", "predicted", "labels", "reason", *_SCALARS)
        return {name: getattr(self, name) for name in names}

    def save(self, path: StrPath) -> None:
        """Write the attacks as JSON, all or nothing; every number is kept exactly.

        Args:
            path: The file; one that is there is replaced.
        """
        document = {"format": _FORMAT} | {name: _write(getattr(self, name)) for name in _SCALARS}
        document |= {name: _write(getattr(self, name)) for name in _PER_ROW}
        write_whole(path, json.dumps(document, indent=1) + "\n", "path")

    @classmethod
    def load(cls, path: StrPath) -> "Attacks":
        """Read attacks that `save` wrote.

        Args:
            path: The file.

        Returns:
            The attacks, bit by bit as they were.

        Raises:
            InvalidInput: When the file is not an attack file of this version.
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
            loaded = cls(**{name: _read(name, value) for name, value in document.items()})
        except (TypeError, ValueError, LookupError, OverflowError, RuntimeError) as problem:
            raise InvalidInput("path", f"{str(path)!r} ({problem})", "valid entries") from problem
        if not loaded._coherent():
            wanted = "entries that do not contradict each other"
            raise InvalidInput("path", f"{str(path)!r}", wanted)
        return loaded

    def _coherent(self) -> bool:
        """Return whether every row has all its entries, and they agree with its reason."""
        rows = len(self.distance)
        if any(len(getattr(self, name)) != rows for name in _PER_ROW) or not self.epsilon >= 0:
            return False
        wrong = self.predicted != self.labels
        each = zip(self.distance.tolist(), wrong.tolist(), self.reason, strict=True)
        return all(_row_coherent(*row, self.epsilon) for row in each)


def _row_coherent(distance: float, wrong: bool, reason: str, epsilon: float) -> bool:
    if reason == "found":
        return wrong and 0 < distance <= epsilon and distance < math.inf
    if reason == "misclassified":
        return wrong and distance == 0
    return reason in REASONS and distance == math.inf


def _write(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dim() > 1:
        kind = str(value.dtype).removeprefix("torch.")
        content = base64.b64encode(value.contiguous().numpy().tobytes()).decode("ascii")
        return {"dtype": kind, "shape": list(value.shape), "base64": content}
    if isinstance(value, Tensor):
        return [_write(entry) for entry in value.tolist()]
    return value.hex() if isinstance(value, float) else value


def _read(name: str, value: Any) -> Any:
    if name == "adversarial":
        content = bytearray(base64.b64decode(value["base64"], validate=True))
        flat = torch.frombuffer(content, dtype=_TYPES[value["dtype"]])
        return flat.reshape(value["shape"])
    if name == "distance":
        return torch.tensor([float.fromhex(entry) for entry in value], dtype=torch.float64)
    if name in ("predicted", "labels"):
        if not all(isinstance(entry, int) for entry in value):
            raise TypeError(f"{name} are not whole numbers")
        return torch.tensor(value, dtype=torch.int64)
    if name == "reason":
        if not isinstance(value, list):
            raise TypeError(f"{name} is not a list")
        return tuple(map(str, value))
    if name in ("norm", "epsilon"):
        number = float.fromhex(value)
        return check_norm(number) if name == "norm" else number
    return str(value)
