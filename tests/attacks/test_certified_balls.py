"""No attack lies inside a certified ball: 10,000 attacks on aligned nets, and all on digits."""

import math

import pytest
from tests.aligned import attack_exact

import holdfast
from holdfast.attacks.agreement import check_agreement
from holdfast.sources.demo import demo_data, demo_model


@pytest.mark.slow
@pytest.mark.parametrize("norm", [2.0, math.inf])
@pytest.mark.parametrize("seed", range(10))
def test_no_attack_lies_inside_a_certified_ball(seed: int, norm: float) -> None:
    distance, radius = attack_exact(seed, 500, norm)
    certified = radius > 0
    assert int(certified.sum()) >= 490
    assert bool((distance > radius)[certified].all())
    if seed == 0 and norm == 2:
        ratio = (distance / radius)[certified]
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
