"""No attack inside a certified ball changes the class: gradient walks on many small nets."""

import math

import pytest
import torch
from tests.nets import Residual
from torch import nn

import holdfast
from holdfast.sources.demo import GroupSort

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.Tanh, lambda: GroupSort(2), lambda: nn.LeakyReLU(0.3))


def net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    act = ACTIVATIONS[seed % len(ACTIVATIONS)]
    body = [nn.Linear(6, 10), act(), Residual(nn.Linear(10, 10), act()), nn.Linear(10, 4)]
    return nn.Sequential(*body).eval()


def attacked(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, radius: torch.Tensor, norm):
    """Return the worst points found on the sphere of each row's radius, [starts * N, 6]."""
    starts = x.repeat(8, 1)
    steps, rows = torch.randn_like(starts), labels.repeat(8)
    size = radius.repeat(8)[:, None]
    for _ in range(60):
        order = torch.linalg.vector_norm(steps, ord=norm, dim=1, keepdim=True)
        moved = (starts + steps / order * size).requires_grad_()
        logits = model(moved)
        own = logits.gather(1, rows[:, None]).squeeze(1)
        other = logits.scatter(1, rows[:, None], -math.inf).amax(1)
        (gradient,) = torch.autograd.grad((other - own).sum(), moved)
        move = gradient.sign() if norm == math.inf else gradient
        unit = move / torch.linalg.vector_norm(move, ord=2, dim=1, keepdim=True).clamp(min=1e-300)
        steps = steps / order + 0.3 * unit
    return moved.detach(), rows


@pytest.mark.slow
@pytest.mark.parametrize("norm", [2.0, math.inf])
@pytest.mark.parametrize("seed", range(10))
def test_no_attack_succeeds_inside_the_radius(seed: int, norm: float) -> None:
    model = net(seed)
    x = torch.randn(120, 6)
    labels = model(x).argmax(1)
    certificates = holdfast.certify(model, x, labels, norm=norm)
    assert bool((certificates.radius > 0).all())
    double = net(seed).double()
    inside = certificates.radius * (1 - 1e-12)
    points, rows = attacked(double, x.double(), labels, inside, norm)
    assert bool((double(points).argmax(1) == rows).all())
    beyond, rows = attacked(double, x.double(), labels, certificates.radius * 40, norm)
    assert bool((double(beyond).argmax(1) != rows).any()), "the attack must be able to succeed"
