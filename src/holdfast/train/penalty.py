"""A penalty on k-volatility, for a plain training loop or for Hugging Face's `Trainer`.

Source: Sun, Ma, Ge, Vosoughi, "Achieving Domain-Independent Certified Robustness via Knowledge
Continuity", NeurIPS 2024, algorithm KCReg, with what keeps it from being cheated or from breaking:
distances in units of their own mean (else the network just inflates its states), real tokens only,
the true cross entropy, clipped, and no division by small distances.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from holdfast.arguments import check_choice, check_number, check_seed, known_names
from holdfast.errors import InvalidInput
from holdfast.graph.layers import Calls, module_path
from holdfast.knowledge_continuity.states.pooling import POOLING, Pooling


@dataclass(frozen=True)
class PenaltyOptions:
    """What kind of volatility is held down.

    Attributes:
        alpha: First parameter of the Beta distribution that draws the layer of each step.
        beta: Second one; larger than alpha prefers early layers.
        sampler: Draws the place of a layer from their number, instead of Beta(alpha, beta).
        one_sided: Only push large losses down towards their neighbours', none up.
        same_label: Only pairs of rows with the same label.
        clip: Losses above this, in nats, count as this.
        pooling: `mean`, `first` or `last` over the real tokens, or a callable.
        seed: Of the layer draws; the same on all ranks.

    Raises:
        InvalidInput: When one of them is something else.
    """

    alpha: float = 2.0
    beta: float = 1.0
    sampler: Callable[[int], int] | None = None
    one_sided: bool = False
    same_label: bool = False
    clip: float = 10.0
    pooling: Pooling = "mean"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "clip"):
            object.__setattr__(self, name, _positive(name, getattr(self, name)))
        if not callable(self.pooling):
            check_choice("pooling", self.pooling, POOLING)
        check_seed(self.seed)


class KnowledgePenalty:
    """Adds the volatility of a layer, drawn anew at each step, to the loss of a classifier.

    The penalty of a batch with losses L, states h at the drawn layer, distances d and their mean s
    is the mean over pairs i != j of |L_i - L_j| / max(d_ij / s, tau), times `weight`.

    Args:
        model: The model that is trained; hooks are kept on it until `close`.
        layers: Module paths to draw from; `path@k` is the k-th further call of a module. The paper
            leaves out the embeddings.
        weight: Of the penalty beside the loss.
        options: See `PenaltyOptions`.

    Raises:
        InvalidInput: When a layer does not exist, or a number is out of range.

    >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> penalty = KnowledgePenalty(model, ["1"], weight=0.1)
    >>> logits, labels = model(torch.eye(2)), torch.tensor([0, 1])
    >>> loss = functional.cross_entropy(logits, labels) + penalty(logits, labels)
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        weight: float = 1e-2,
        **options: Any,
    ) -> None:
        modules = dict(model.named_modules())
        if isinstance(layers, str) or not layers:
            raise InvalidInput("layers", repr(layers), "a sequence of module paths")
        paths = {}
        for layer in layers:
            path = module_path(str(layer), model)
            if path is None:
                raise InvalidInput("layer", repr(layer), known_names(str(layer), modules))
            paths[path] = modules[path]
        for option in options:
            check_choice("option", option, [field.name for field in fields(PenaltyOptions)])
        self.layers, self.weight = tuple(layers), _positive("weight", weight)
        self.options = PenaltyOptions(**options)
        self._draw = self.options.sampler or _beta_draws(self.options)
        self._chosen, self._states, self._mask, self._calls = layers[0], None, None, Calls()
        self._handles = [model.register_forward_pre_hook(self._begin, with_kwargs=True)]
        for path, module in paths.items():
            self._handles.append(module.register_forward_hook(self._hook_for(path)))

    def _begin(self, _module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        """Draw the layer of this step, and note which tokens are real."""
        self._chosen = self.layers[self._draw(len(self.layers))]
        self._mask, self._states, self._calls = kwargs.get("attention_mask"), None, Calls()

    def _hook_for(self, path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, result: Any) -> None:
            if self._calls.name(path) == self._chosen:
                self._states = result if isinstance(result, Tensor) else result[0]

        return hook

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the penalty of the batch that the model has just seen.

        Args:
            logits: What it returned, [B, classes].
            labels: Class indices [B].

        Returns:
            weight x volatility, a scalar with gradients; 0 where no pair counts.

        Raises:
            InvalidInput: When the model was not run on this batch, labels do not fit the logits, or
                a loss is not finite.
        """
        _check(logits, labels)
        states = self._states
        if states is None or len(states) != len(labels):
            raise InvalidInput("logits", "a batch that the model has not just seen", "its output")
        if self._mask is not None and states.shape[:2] == self._mask.shape and states.ndim == 3:
            pooling = self.options.pooling
            pool = pooling if callable(pooling) else POOLING[pooling]
            states = pool(states, self._mask)
        # In float64, as small changes of large losses would be rounding; Apple's GPUs have none.
        wide = torch.float32 if logits.device.type == "mps" else torch.float64
        losses = functional.cross_entropy(logits.to(wide), labels, reduction="none")
        if not bool(losses.isfinite().all()):
            raise InvalidInput("logits", "a loss that is not finite", "finite logits")
        rows = _gathered(states.flatten(1).float()), _gathered(losses.clamp(max=self.options.clip))
        value = self._volatility(*rows, _gathered(labels))
        return self.weight * value.to(torch.promote_types(logits.dtype, torch.float32))

    def _volatility(self, states: Tensor, losses: Tensor, labels: Tensor) -> Tensor:
        pairs = ~torch.eye(len(losses), dtype=torch.bool, device=losses.device)
        distances = torch.cdist(states, states, compute_mode="donot_use_mm_for_euclid_dist")
        if not bool(distances[pairs].any()):
            return losses.sum() * 0
        scaled = distances / distances[pairs].mean()
        # A hundredth of the median distance: no pair outweighs the others by far.
        floor = 1e-2 * (float(scaled[pairs].median().detach()) or 1.0)
        if self.options.one_sided:
            changes = (losses - losses[:, None].detach()).clamp(min=0)
        else:
            changes = (losses - losses[:, None]).abs()
        if self.options.same_label:
            pairs = pairs & (labels == labels[:, None])
        if not bool(pairs.any()):
            return losses.sum() * 0
        return (changes / scaled.clamp(min=floor))[pairs].mean()

    def compute_loss(
        self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Return cross entropy plus penalty: `Trainer(..., compute_loss_func=it)`.

        Args:
            outputs: What the model returned, with `logits` [B, classes].
            labels: Class indices [B].
            num_items_in_batch: Rows in all batches of an accumulated step; None for this one.

        Returns:
            The loss, a scalar with gradients.

        Raises:
            InvalidInput: As for a call.
        """
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
        _check(logits, labels)
        total = functional.cross_entropy(logits, labels, reduction="sum")
        share = len(labels) / (num_items_in_batch or len(labels))
        return total / (num_items_in_batch or len(labels)) + share * self(logits, labels)

    def close(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()


def _check(logits: Tensor, labels: object) -> None:
    """Check that there is one class index for each row of logits.

    Raises:
        InvalidInput: If there is not.
    """
    if not isinstance(labels, Tensor):
        raise InvalidInput("labels", type(labels).__name__, "a tensor of class indices [B]")
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.is_floating_point():
        got = f"labels {labels.dtype} {tuple(labels.shape)} for logits {tuple(logits.shape)}"
        raise InvalidInput("labels", got, "class indices [B] for logits [B, classes]")
    if bool(((labels < 0) | (labels >= logits.shape[1])).any()):
        raise InvalidInput("labels", "indices of no class", f"0 to {logits.shape[1] - 1}")


def _positive(name: str, value: object) -> float:
    """Return a finite number above 0; see `check_number`."""
    return check_number(name, value, lambda v: 0 < v < math.inf, "a finite number above 0")


def _beta_draws(options: PenaltyOptions) -> Callable[[int], int]:
    """Return a sampler of places: floor(n X) with X ~ Beta(alpha, beta)."""
    generator = torch.Generator().manual_seed(options.seed)

    def draw(n: int) -> int:
        shapes = torch.tensor([options.alpha, options.beta], dtype=torch.float64)
        first, second = torch._standard_gamma(shapes, generator=generator)
        return min(int(n * first / (first + second)), n - 1)

    return draw


def _gathered(values: Tensor) -> Tensor:
    """Return the rows of all ranks, with gradients; they have equally many."""
    ranks = torch.distributed
    if not (ranks.is_available() and ranks.is_initialized()) or ranks.get_world_size() == 1:
        return values
    world, fixed = ranks.get_world_size(), values.detach().contiguous()
    parts = [torch.empty_like(fixed) for _ in range(world)]
    ranks.all_gather(parts, fixed)
    if values.requires_grad:
        # Gradients are averaged over the ranks, each of which has those of its own rows alone.
        parts[ranks.get_rank()] = fixed + world * (values - fixed)
    return torch.cat(parts)
