"""No attack lies inside a certified ball: 10,000 attacked certificates on aligned nets, and digits.

In an aligned net every layer stretches the same direction most, so that the product of the norms is
the constant and the certified radius is all but the distance to the boundary: a bound that is a
little too small is found out.
"""

import math

import pytest
import torch
from torch import nn

import holdfast
from holdfast.attacks.agreement import check_agreement
from holdfast.attacks.attack import attack_captured
from holdfast.sources.demo import demo_data, demo_model


def aligned(seed: int, width: int = 8, classes: int = 3) -> nn.Sequential:
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


@pytest.mark.slow
@pytest.mark.parametrize("norm", [2.0, math.inf])
@pytest.mark.parametrize("seed", range(10))
def test_no_attack_lies_inside_a_certified_ball(seed: int, norm: float) -> None:
    model = aligned(seed)
    x = 0.3 * torch.randn(500, 8, generator=torch.Generator().manual_seed(seed)).double()
    labels = model(x).argmax(1)
    certificates = holdfast.certify(model, x, labels, norm=norm)
    graph = holdfast.capture(model, x[:1])
    attacks = attack_captured(graph, model, (x, labels), norm)
    certified = certificates.radius > 0
    assert int(certified.sum()) >= 490
    assert check_agreement(graph, certificates, attacks) == ()
    assert bool((attacks.distance > certificates.radius)[certified].all())
    if seed == 0 and norm == 2:
        ratio = (attacks.distance / certificates.radius)[certified]
        assert float(ratio.min()) < 1.001, "the attack must come near what is certified"


@pytest.mark.slow
@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("name", ["digits-plain", "digits-bounded"])
def test_no_attack_on_the_digits_lies_inside_a_certified_ball(name: str, norm: float) -> None:
    model, (x, labels) = demo_model(name), demo_data()
    certificates = holdfast.certify(model, x, labels, norm=norm)
    attacks = holdfast.attack(model, x, labels, norm=norm)
    graph = holdfast.capture(model, x[:1])
    assert check_agreement(graph, certificates, attacks) == ()
    assert bool((attacks.distance > certificates.radius)[certificates.radius > 0].all())
    assert set(attacks.reason) == {"found", "misclassified"}
