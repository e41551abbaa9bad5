"""Nets whose certificates are all but exact, and attacks on them: a bound too small is found out.

In both kinds every layer hands the direction that it stretches most on to the next one, so that the
product of the norms is the constant and the certified radius all but the distance to the boundary.
"""

import numpy as np
import torch
from tests.machine import distance_within
from torch import Tensor, nn

import holdfast
from holdfast.attacks.agreement import check_agreement
from holdfast.attacks.attack import AttackOptions, attack_graph


def stretching(seed: int, width: int = 8, classes: int = 3) -> nn.Sequential:
    """Return a float64 net whose layers hand their largest singular direction on to each other.

    In float32 the rounding of the run alone carries attacks into balls that are this tight.
    """
    generator = torch.Generator().manual_seed(seed)

    def orthogonal(rows: int) -> torch.Tensor:
        return torch.linalg.qr(torch.randn(rows, rows, generator=generator).double()).Q

    sides = [orthogonal(width) for _ in range(3)]
    layers: list[nn.Module] = []
    for left, right in ((sides[1], sides[0]), (sides[2], sides[1])):
        sizes = torch.linspace(1.5, 0.2, width, dtype=torch.float64)
        layer = nn.Linear(width, width)
        layer.weight.data = (left * sizes @ right.T).float()
        layer.bias.data = 4.0 + torch.randn(width, generator=generator).abs()  # ReLUs stay open
        layers += [layer, nn.ReLU()]
    last = nn.Linear(width, classes)
    ends = torch.randn(classes, generator=generator).double()
    last.weight.data = torch.outer(ends, sides[2][:, 0]).float()
    last.bias.data = torch.zeros(classes)
    return nn.Sequential(*layers, last).eval().double()


def attack_exact(seed: int, rows: int, norm: float) -> tuple[Tensor, Tensor]:
    """Return the distances of attacks and the certified radii; stop where they contradict."""
    model = stretching(seed)
    x = 0.3 * torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed)).double()
    labels = model(x).argmax(1)
    certificates = holdfast.certify(model, x, labels, norm=norm)
    graph = holdfast.capture(model, x[:1])
    attacks = attack_graph(graph, model, (x, labels), AttackOptions(norm))
    assert check_agreement(graph, certificates, attacks) == ()
    return attacks.distance, certificates.radius


def turning(seed: int, width: int, bias: float) -> nn.Sequential:
    """Return a net whose units are all on, whose layers turn without shrinking: K is attained."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(2):
        layer = nn.Linear(width, width)
        layer.weight.data = torch.linalg.qr(torch.randn(width, width)).Q.contiguous()
        layer.bias.data = bias * (1 + torch.rand(width))
        layers += [layer, nn.ReLU()]
    last = nn.Linear(width, 2)
    turn = torch.linalg.qr(torch.randn(width, 2)).Q.T
    last.weight.data = turn.contiguous()
    net = nn.Sequential(*layers, last).double()
    with torch.no_grad():
        last.bias.data = -net(torch.zeros(1, width).double())[0] + last.bias
    return net.float().eval()


def executions(net: nn.Sequential, x: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Execute rows in several orders of summation, fused and not; torch's own comes first."""
    with torch.no_grad():
        results = [net(torch.from_numpy(x)).numpy()]
    for fused in (False, True):
        values = x
        for layer in net:
            if isinstance(layer, nn.ReLU):
                values = np.maximum(values, np.float32(0))
                continue
            weight = layer.weight.detach().numpy()
            total = np.broadcast_to(layer.bias.detach().numpy(), (len(x), len(weight)))
            for j in rng.permutation(weight.shape[1]):
                if fused:
                    product = values[:, j, None].astype(np.float64) * weight[:, j]
                    total = (total + product).astype(np.float32)
                else:
                    total = total + values[:, j, None] * weight[:, j]
            values = total
        results.append(values)
    return results


def flips(net: nn.Sequential, certificates, x: Tensor, rng: np.random.Generator) -> int:
    """Count certified rows with a float32 point in the ball of which some execution flips."""
    label = certificates.labels
    with torch.no_grad():
        double = net.double()
        moved = x.double().requires_grad_()
        with torch.enable_grad():
            logits = double(moved)
            own = logits.gather(1, label[:, None])
            gap = (logits.gather(1, 1 - label[:, None]) - own).sum()
            (direction,) = torch.autograd.grad(gap, moved)
        net.float()
    direction = direction / direction.norm(dim=1, keepdim=True)
    flipped = np.zeros(len(x), dtype=bool)
    for share in (1.0, 1 - 1e-7, 1 - 1e-6, 1 - 1e-5, 1 - 1e-4):
        points = (x.double() + share * certificates.radius[:, None] * direction).float()
        rows = zip(x.tolist(), points.tolist(), certificates.radius.tolist(), strict=True)
        inside = np.array([distance_within(a, b, radius, 2.0) for a, b, radius in rows])
        for logits in executions(net, points.numpy(), rng):
            other = np.take_along_axis(logits, 1 - label[:, None].numpy(), 1)
            mine = np.take_along_axis(logits, label[:, None].numpy(), 1)
            flipped |= inside & ~(mine > other)[:, 0]
    return int((flipped & (certificates.radius > 0).numpy()).sum())


def attack_executed(seed: int, rows: int, width: int = 12) -> tuple[int, int, int]:
    """Return flips inside exact and executed radii, and how many rows the latter certify."""
    net = turning(seed, width, 2.0 ** (seed % 12))
    x = torch.randn(rows, width) * 0.1 / 2 ** (seed % 5)
    label = net(x).argmax(1)
    rng = np.random.default_rng(seed)
    real = holdfast.certify(net, x, label)
    executed = holdfast.certify(net, x, label, semantics="float32")
    assert bool((executed.radius <= real.radius).all())
    certified = int((executed.radius > 0).sum())
    return flips(net, real, x, rng), flips(net, executed, x, rng), certified
