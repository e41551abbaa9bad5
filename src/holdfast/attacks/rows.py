"""Rows under attack: the model is asked here, and the nearest adversarial of each row is kept.

The searches move points u, of which `placed` makes inputs: x = units u where an entry may move, and
the row's own value elsewhere. So all that they know of distances is the norm.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.arguments import user_code
from holdfast.attacks.geometry import distance_up

Model = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Rows:
    """Some rows under attack, and the nearest adversarial that is known of each.

    Attributes:
        model: From [R, ...] to logits [R, classes].
        inputs: [R, ...], in the model's type; the centres of the distances.
        labels: [R].
        norm: 1, 2 or inf.
        epsilon: Distance up to which an adversarial counts.
        units: [n] float64, at least 0, of the entries; None for ones.
        distance: [R] float64, measured and rounded up; inf where none is known.
        adversarial: [R, n], a point; the row itself where none is known.
        predicted: [R], the model's answer there.
    """

    model: Model
    inputs: Tensor
    labels: Tensor
    norm: float
    epsilon: float
    units: Tensor | None
    distance: Tensor
    adversarial: Tensor
    predicted: Tensor

    @classmethod
    def begin(
        cls,
        model: Model,
        rows: tuple[Tensor, Tensor],
        norm: float,
        epsilon: float = math.inf,
        units: Tensor | None = None,
    ) -> "Rows":
        """Return rows, inputs and labels, of which no adversarial is known."""
        inputs, labels = rows
        distance = torch.full((len(inputs),), math.inf, dtype=torch.float64)
        predicted = torch.full((len(inputs),), -1)
        found = (distance, inputs.flatten(1), predicted)
        begun = cls(model, inputs, labels, norm, epsilon, units, *found)
        begun.adversarial = begun.center.clone()
        return begun

    @property
    def center(self) -> Tensor:
        """The points of the rows themselves, flat [R, n]."""
        rows = self.inputs.flatten(1)
        if self.units is None:
            return rows
        return torch.where(self.units > 0, rows / self.units, 0.0).to(rows.dtype)

    def placed(self, points: Tensor) -> Tensor:
        """Return the inputs, [R, ...], that flat points [R, n] stand for."""
        if self.units is not None:
            moved = points * self.units.to(points.dtype)
            points = torch.where(self.units > 0, moved, self.inputs.flatten(1))
        return points.reshape(self.inputs.shape)

    def take(self, chosen: Tensor) -> "Rows":
        """Return some of the rows, by their numbers."""
        kept = (self.distance[chosen], self.adversarial[chosen], self.predicted[chosen])
        rows = (self.inputs[chosen], self.labels[chosen])
        return Rows(self.model, *rows, self.norm, self.epsilon, self.units, *kept)

    def put(self, chosen: Tensor, some: "Rows") -> None:
        """Take back what was found about some of the rows."""
        self.distance[chosen] = some.distance
        self.adversarial[chosen] = some.adversarial
        self.predicted[chosen] = some.predicted

    def ask(self, points: Tensor) -> Tensor:
        """Return the logits at flat points [R, n], keeping those that are nearer adversarials."""
        with torch.no_grad():
            logits = self.model(self.placed(points))
            self._keep(points, logits)
        return logits

    def climb(self, points: Tensor, rivals: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return by how much a rival leads the label at flat points, and the gradient of that.

        Args:
            points: [R, n].
            rivals: [R], classes; the largest other logit where absent.

        Returns:
            Leads [R] and gradients [R, n], 0 where they are not finite.
        """
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model(self.placed(points))
            lead = self.lead(logits, rivals)
            gradient = torch.zeros_like(points)
            if lead.requires_grad:
                with user_code("model", "a derivative that fails", "a differentiable model"):
                    (gradient,) = torch.autograd.grad(lead.sum(), points, materialize_grads=True)
        self._keep(points.detach(), logits.detach())
        finite = torch.isfinite(gradient).all(1, keepdim=True)
        return lead.detach(), torch.where(finite, gradient, 0.0)

    def lead(self, logits: Tensor, rivals: Tensor | None = None) -> Tensor:
        """Return the rival's logit, or the largest other one, minus the label's [R]."""
        own = logits.gather(1, self.labels[:, None]).squeeze(1)
        if rivals is not None:
            return logits.gather(1, rivals[:, None]).squeeze(1) - own
        return logits.scatter(1, self.labels[:, None], -math.inf).amax(1) - own

    def fooled(self, logits: Tensor) -> Tensor:
        """Return where finite logits have another class clearly ahead of the label [R] bool."""
        # A few roundings more or fewer, as between two batch sizes, do not take such a lead back.
        roundings = 64 if logits.dtype == torch.float64 else 8
        share = roundings * torch.finfo(logits.dtype).eps
        clear = self.lead(logits) > share * logits.abs().amax(1)
        return clear & torch.isfinite(logits).all(1)

    def _keep(self, points: Tensor, logits: Tensor) -> None:
        fooled = self.fooled(logits)
        if not bool(fooled.any()):
            return
        there = self.placed(points).flatten(1)
        distance = distance_up(there, self.inputs.flatten(1), self.norm, self.units)
        nearer = fooled & (distance < self.distance) & (distance <= self.epsilon)
        self.distance = torch.where(nearer, distance, self.distance)
        self.adversarial = torch.where(nearer[:, None], points, self.adversarial)
        self.predicted = torch.where(nearer, logits.argmax(1), self.predicted)

    def shrink(self) -> None:
        """Bisect between each row and its adversarial for a nearer one."""
        step = self.adversarial - self.center
        low, high = torch.zeros_like(step[:, :1]), torch.ones_like(step[:, :1])
        for _ in range(14):  # to a 16,000th of the distance
            middle = (low + high) / 2
            fooled = self.fooled(self.ask(self.center + middle * step))[:, None]
            low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
