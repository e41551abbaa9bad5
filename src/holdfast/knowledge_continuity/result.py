"""What `holdfast.knowledge` returns: volatility by layer, the rows behind it, and certificates."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from holdfast.arguments import check_whole, look_up
from holdfast.documents import Saved
from holdfast.errors import InvalidInput
from holdfast.files import plain_fields
from holdfast.knowledge_continuity.evidence.certificate import (
    CertificateRequest,
    Frontier,
    KnowledgeCertificate,
    certify_cell,
    frontier,
)
from holdfast.knowledge_continuity.evidence.evidence import Evidence
from holdfast.knowledge_continuity.evidence.expected import VolatilityCertificate, certify_slope
from holdfast.knowledge_continuity.pairs.localise import Brittle
from holdfast.results import ChartedResult
from holdfast.types import Estimate


@dataclass(frozen=True, eq=False, repr=False)
class Knowledge(Saved, ChartedResult):
    """The volatility of every measured layer of a model, on one data set.

    Each dictionary is by layer; see `Volatility` for the meaning, units and intervals of entries.

    Attributes:
        layers: Layer names in execution order.
        volatility: Loss change per unit of distance.
        clipped: The same with small distances taken as `floor`.
        normalised: `volatility` with distances divided by their mean: comparable between layers.
        near: Volatility over pairs at most `near_radius` apart; None where there are none.
        perturbed: Volatility over the pairs (row, perturbed row) that the user gave; empty without.
        pointwise: Volatility of each row, [n] float64.
        one_sided: The part of `pointwise` that comes from partners with a larger loss, [n].
        same_label: Volatility over pairs with equal labels; None if there is no such pair.
        other_label: Volatility over pairs with different labels; None if there is no such pair.
        collisions: Share of pairs at distance 0.
        scale: Mean distance.
        near_radius: What counts as near, in units of the distance.
        floor: Smallest distance of `clipped`.
        steepest: Largest change / distance over same-label pairs, with the two rows.
        by_class: Mean pointwise volatility of the rows of each label.
        evidence: What certificates rest on; None where the anchors are all in one place.
        neighbours: The rows with the largest pointwise volatility, with their partners.
        distance: Name of the distance.
        kernel: `inverse` or `one_plus`.
        clip: Smallest distance, or None.
        n: Number of rows.
        notes: Sentences on what is missing or particular, and why.
        loss: Name of the loss; `given` where the losses came as numbers.
        rounding: What rounding of the model's outputs, or of the given losses, may add to a change
            of loss between two rows, on average; see `loss_roundings` in `losses`.
        near_rounding: The same between rows at most `near_radius` apart; 0 where there are none.
        accuracy: Share of the rows whose largest output is the label's; None where there are no
            logits.
        seed: Of the choice of anchors and of random pairs.
        stopped: How many layers were measured, where the user interrupted; empty otherwise.
    """

    FORMAT: ClassVar = "holdfast.knowledge/1"

    layers: tuple[str, ...]
    volatility: dict[str, Estimate]
    clipped: dict[str, Estimate]
    normalised: dict[str, Estimate]
    near: dict[str, Estimate | None]
    near_rounding: dict[str, float]
    pointwise: dict[str, Annotated[Tensor, torch.float64]]
    one_sided: dict[str, Annotated[Tensor, torch.float64]]
    same_label: dict[str, Estimate | None]
    other_label: dict[str, Estimate | None]
    collisions: dict[str, float]
    scale: dict[str, float]
    near_radius: dict[str, float]
    floor: dict[str, float]
    steepest: dict[str, tuple[float, int, int] | None]
    by_class: dict[str, dict[int | float, Estimate]]
    evidence: dict[str, Evidence | None]
    neighbours: dict[str, tuple[Brittle, ...]]
    distance: str
    kernel: str
    clip: float | None
    n: int
    notes: tuple[str, ...] = ()
    loss: str = "given"
    rounding: float = 0.0
    perturbed: dict[str, Estimate] = field(default_factory=dict)
    accuracy: float | None = None
    seed: int = 0
    stopped: str = ""

    def rank(self) -> list[str]:
        """Return the layers, most volatile first, by `normalised`; ties in execution order."""
        return sorted(self.layers, key=lambda layer: -self.normalised[layer].value)

    def worst(self, layer: str, k: int = 10) -> list[tuple[int, float]]:
        """Return the rows with the largest pointwise volatility at a layer.

        Args:
            layer: A name in `layers`.
            k: How many rows; all of them if there are fewer.

        Returns:
            Pairs (row index, pointwise volatility), largest first; ties by row index.

        Raises:
            InvalidInput: If the layer was not measured, or k is below 1.
        """
        k = check_whole("k", k, "a whole number, at least 1", 1)
        values, rows = look_up("layer", layer, self.pointwise).sort(descending=True, stable=True)
        return list(zip(rows[:k].tolist(), values[:k].tolist(), strict=True))

    def certificate(  # noqa: PLR0913 - where, how sure, and by which method
        self,
        layer: str,
        delta: float,
        eta: float,
        confidence: float = 0.95,
        method: str = "nearest",
        anchor: int | None = None,
        *,
        front_upper: float | None = None,
    ) -> KnowledgeCertificate:
        """Bound the probability that fresh data lands near and yet has a different loss.

        Anchors, distance, scale and the grid of distances and loss changes never see the rows that
        are counted here. All cells of all layers share the confidence, so layer, delta and eta may
        be chosen after looking; each method stands for itself. Rows that are anchors too, or repeat
        another row, count only where they count against the model.

        Args:
            layer: A name in `layers`.
            delta: Distance, in the units of the layer's distance.
            eta: Loss change.
            confidence: Probability, over the certification rows, that all bounds hold at once.
            method: `nearest`: a fresh row against its nearest anchor. `anchor`: against one anchor.
                `pairs`: two fresh rows.
            anchor: Which anchor, from 0, for the method `anchor`.
            front_upper: A proved Lipschitz constant of the model from its input to the layer's
                states, both in the layer's distance: `delta` is then a distance between inputs.
                There is no conditional bound for these.

        Returns:
            The bound, with the exact statement, for the next larger distance and the next smaller
            loss change of the grid; it names them.

        Raises:
            InvalidInput: If the layer has no evidence, or an argument is out of range.
        """
        request = CertificateRequest(
            layer, method, confidence, len(self.layers), anchor, front_upper
        )
        return certify_cell(self._evidence(layer), request, delta, eta)

    def frontier(self, layer: str, confidence: float = 0.95, method: str = "nearest") -> Frontier:
        """Return the certificate of every cell of the grid; see `certificate`.

        Args:
            layer: A name in `layers`.
            confidence: As in `certificate`.
            method: `nearest` or `pairs`.

        Returns:
            All cells, under one confidence.

        Raises:
            InvalidInput: If the layer has no evidence, or the method has no counts.
        """
        request = CertificateRequest(layer, method, confidence, len(self.layers))
        return frontier(self._evidence(layer), request)

    def volatility_certificate(
        self, layer: str, confidence: float = 0.95, front_upper: float | None = None
    ) -> VolatilityCertificate:
        """Bound the expected change of loss per unit of distance between two fresh examples.

        Distances below `near_radius` count as that, and loss changes above the largest among the
        anchors as that one: without these there is no bound. All layers share the confidence.

        Args:
            layer: A name in `layers`.
            confidence: Probability, over the certification rows, that the bounds of all layers
                hold at once.
            front_upper: As in `certificate`: the distance is then that between inputs.

        Returns:
            The bound, with the exact statement.

        Raises:
            InvalidInput: If the layer has no evidence, or an argument is out of range.
        """
        evidence = self._evidence(layer)
        return certify_slope(evidence, layer, confidence, len(self.layers), front_upper)

    def _evidence(self, layer: str) -> Evidence:
        """Return a layer's evidence.

        Raises:
            InvalidInput: If it has none.
        """
        found = look_up("layer", layer, self.evidence)
        if found is None:
            wanted = "a layer whose anchors do not all lie in one place"
            raise InvalidInput("layer", repr(layer), wanted)
        return found

    def document(self) -> dict[str, Any]:
        """Return everything but the values of single rows, ready for JSON.

        Returns:
            Strings, integers, finite floats, None, and lists and dictionaries of these. An
            estimate is a dictionary of `value`, `low`, `high` and `level`; a bound that is not
            finite is None.
        """
        rows = ("pointwise", "one_sided", "evidence", "neighbours")
        rows += () if self.stopped else ("stopped",)
        return plain_fields(self, *rows) | {"rank": self.rank()}

    def coherent(self) -> bool:
        """Return whether every layer has all its entries, and every row its values."""
        per_row = (self.pointwise, self.one_sided)
        per_layer = (
            *per_row, self.volatility, self.clipped, self.normalised, self.near, self.scale,
            self.near_rounding, self.same_label, self.other_label, self.collisions, self.floor,
            self.near_radius, self.steepest, self.by_class, self.evidence, self.neighbours,
        )  # fmt: skip
        layers = set(self.layers)
        if len(layers) != len(self.layers) or any(set(each) != layers for each in per_layer):
            return False
        if any(len(values) != self.n for each in per_row for values in each.values()):
            return False
        named = {row for each in self.steepest.values() if each is not None for row in each[1:]}
        named |= {row for each in self.neighbours.values() for b in each for row in _rows(b)}
        known = all(each is None or each.coherent(self.n) for each in self.evidence.values())
        return known and all(0 <= row < self.n for row in named) and set(self.perturbed) <= layers


def _rows(brittle: Brittle) -> tuple[int, int]:
    return brittle.row, brittle.neighbour
