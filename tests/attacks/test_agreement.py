"""A certificate that an attack contradicts stops everything; honest ones and rounding do not."""

import dataclasses
import functools
import math

import pytest
import torch
from torch import nn

import holdfast
from holdfast.arguments import NORMS
from holdfast.attacks.agreement import check_agreement
from holdfast.errors import InternalError, InvalidInput


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


@functools.cache
def both(norm: float = 2.0):
    model = net()
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    labels = model(x).argmax(1)
    graph = holdfast.capture(model, x)
    certificates = holdfast.certify(model, x, labels, norm=norm)
    return graph, certificates, holdfast.attack(model, x, labels, norm=norm)


@pytest.mark.parametrize("norm", NORMS)
def test_honest_certificates_agree(norm):
    assert check_agreement(*both(norm)) == ()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("semantics", ["real", "float32"])
def test_a_radius_that_is_too_large_is_caught(norm, semantics):
    graph, certificates, attacks = both(norm)
    radius = certificates.radius.clone()
    radius[7] = attacks.distance[7]
    forged = dataclasses.replace(certificates, radius=radius, semantics=semantics)
    with pytest.raises(InternalError, match=r"^row 7: class . instead of .*; please report it$"):
        check_agreement(graph, forged, attacks)


def test_just_below_the_attack_is_no_contradiction():
    graph, certificates, attacks = both()
    below = torch.nextafter(attacks.distance, torch.zeros_like(attacks.distance))
    forged = dataclasses.replace(certificates, radius=below)
    assert check_agreement(graph, forged, attacks) == ()


def test_rounding_of_the_run_is_reported_and_contradicts_only_what_is_about_the_run():
    """In float32 the biases swallow the row; the real function keeps the classes apart."""
    model = nn.Linear(2, 2)
    model.weight.data = torch.tensor([[1e-4, 0.0], [0.0, 1e-4]])
    model.bias.data = torch.tensor([2.0**20, 2.0**20])
    x, labels = torch.tensor([[0.5, 1.0]]), torch.tensor([1])
    graph = holdfast.capture(model.eval(), x)
    certificates = holdfast.certify(model, x, labels)
    attacks = holdfast.attack(model, x, labels)
    assert float(certificates.radius) > 0 and attacks.reason == ("misclassified",)
    assert check_agreement(graph, certificates, attacks) == (0,)
    executed = dataclasses.replace(certificates, semantics="float32")
    with pytest.raises(InternalError, match="float32 semantics"):
        check_agreement(graph, executed, attacks)


@pytest.mark.parametrize(
    "change", [{"norm": 1.0}, {"fingerprint": ""}, {"labels": torch.zeros(20, dtype=torch.int64)}]
)
def test_what_does_not_belong_together_is_not_compared(change):
    graph, certificates, attacks = both()
    with pytest.raises(InvalidInput, match="attacks on another model"):
        check_agreement(graph, certificates, dataclasses.replace(attacks, **change))


def test_rows_without_certificate_or_attack_are_left_alone():
    graph, certificates, attacks = both()
    nothing = dataclasses.replace(certificates, radius=torch.zeros(20, dtype=torch.float64))
    assert check_agreement(graph, nothing, attacks) == ()
    missed = dataclasses.replace(attacks, distance=torch.full((20,), math.inf).double())
    unbounded = dataclasses.replace(certificates, radius=missed.distance)
    assert check_agreement(graph, unbounded, missed) == ()
