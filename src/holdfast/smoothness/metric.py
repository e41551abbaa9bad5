"""The metric in which an optimiser takes its steps, and how long they may be there.

An optimiser moves by d = -s P^-1 m, where s is its step, P a positive diagonal that its state holds
(1 for gradient descent) and m a momentum of past gradients. Measured by |d|_P, the descent lemma
reads f(w + d) - f(w) <= g.d + L |d|_P^2 / 2, and on a quadratic the steps settle for s < c / L,
where L is the largest eigenvalue of P^-1 H and c depends on the momentum:

* 2 (1 + b) / (1 - t) for momentum b with dampening t (Polyak, 1964);
* 2 (1 + b) / (1 + 2 b) for Nesterov's momentum;
* 2 (1 + b) / (1 - b) for the running mean of Adam, which is dampening b.

Cohen, Kaur, Li, Kolter, Talwalkar, "Gradient Descent on Neural Networks Typically Occurs at the
Edge of Stability" (2021), appendix B; Cohen et al., "Adaptive Gradient Methods at the Edge of
Stability" (2022), section 3.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

Fields = Mapping[str, Any]
"""Of a parameter group, or of an optimiser's state."""


@dataclass(frozen=True)
class StepRule:
    """How an optimiser scales its step.

    Attributes:
        limit: The c above, from a parameter group.
        scale: The entries of P for one parameter, from its group and its state; None for 1.
        metric: Name of the metric.
    """

    limit: Callable[[Fields], float]
    scale: Callable[[Fields, Fields], Tensor | None]
    metric: str


def _heavy_ball(momentum: float, dampening: float, nesterov: bool) -> float:
    if nesterov:
        return 2 * (1 + momentum) / (1 + 2 * momentum)
    return 2 * (1 + momentum) / (1 - dampening)


def _sgd_limit(group: Fields) -> float:
    momentum = group["momentum"]
    dampening = group["dampening"] if momentum else 0.0  # SGD ignores it without momentum
    return _heavy_ball(momentum, dampening, group["nesterov"])


def _adam_scale(group: Fields, state: Fields) -> Tensor:
    square = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    beta1, beta2 = (float(beta) for beta in group["betas"])
    steps = float(state["step"])
    root = (square / (1 - beta2**steps)).sqrt() + group["eps"]
    return root * (1 - beta1**steps)


def _rmsprop_scale(group: Fields, state: Fields) -> Tensor:
    square = state["square_avg"]
    if group["centered"]:
        square = square.addcmul(state["grad_avg"], state["grad_avg"], value=-1)
    return square.sqrt() + group["eps"]


def _adagrad_scale(group: Fields, state: Fields) -> Tensor:
    slower = 1 + (float(state["step"]) - 1) * group["lr_decay"]
    return (state["sum"].sqrt() + group["eps"]) * slower


def _adam_limit(group: Fields) -> float:
    beta = float(group["betas"][0])
    return _heavy_ball(beta, beta, nesterov=False)


_RULES: dict[type, StepRule] = {
    SGD: StepRule(_sgd_limit, lambda group, state: None, "l2"),
    Adam: StepRule(_adam_limit, _adam_scale, "Adam"),
    AdamW: StepRule(_adam_limit, _adam_scale, "Adam"),
    RMSprop: StepRule(
        lambda group: _heavy_ball(group["momentum"], 0.0, nesterov=False), _rmsprop_scale, "RMSprop"
    ),
    Adagrad: StepRule(lambda group: 2.0, _adagrad_scale, "Adagrad"),
}


def rule_of(optimizer: Optimizer) -> StepRule:
    """Return the rule of an optimiser; one that is not known is measured in the l2 metric."""
    plain = StepRule(lambda group: 2.0, lambda group, state: None, "l2")
    return _RULES.get(type(optimizer), plain)


def scales(optimizer: Optimizer, rule: StepRule, parameters: list[Tensor]) -> Tensor | None:
    """Return the diagonal of P after a step, [parameters], relative to the first group's step.

    Args:
        optimizer: It has taken at least one step.
        rule: Its rule.
        parameters: Those that it moved, in order.

    Returns:
        Positive entries; None where they are all 1.
    """
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    first = float(optimizer.param_groups[0]["lr"])
    parts = []
    for p in parameters:
        scale = rule.scale(groups[p], optimizer.state.get(p) or {})
        rate = float(groups[p]["lr"])
        if rate != first:
            slower = first / max(rate, 1e-12 * first)  # a group that stands still, but for ever
            scale = torch.full_like(p, slower) if scale is None else scale * slower
        parts.append(scale)
    if all(part is None for part in parts):
        return None
    full = zip(parts, parameters, strict=True)
    ones = (torch.ones_like(p) if part is None else part for part, p in full)
    return torch.cat([part.detach().reshape(-1) for part in ones])
