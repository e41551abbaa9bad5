"""Conditions on models where the right answer is known."""

import dataclasses
import math

import pytest
import torch
from torch import nn

import holdfast
from holdfast.arguments import NORMS
from holdfast.certificates.conditions import ConditionsOptions, conditions_of
from holdfast.errors import InvalidInput, Unsupported


def conditions(*arguments, **options):
    return holdfast.conditions(*arguments, seconds=0.1, **options)


def linear(weight: float) -> nn.Linear:
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = weight * torch.eye(2)
    return model.eval()


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Return two classes of a grid, each row one step from the boundary."""
    return torch.tensor([[2.0, 0.0], [3.0, 1.0], [0.0, 2.0], [1.0, 3.0]]), torch.tensor(
        [0, 0, 1, 1]
    )


@pytest.mark.parametrize("norm", NORMS)
def test_a_model_that_uses_all_the_room_is_meaningful(norm):
    verdict = conditions(linear(1.0), *rows(), norm=norm)
    assert (verdict.metric, verdict.bounded, verdict.norm) == ("natural", "meaningful", norm)
    expected = {1: 2.0, 2: 2**0.5, math.inf: 1.0}[norm]
    assert verdict.resolution == pytest.approx(expected)
    assert verdict.median_radius == pytest.approx(expected, rel=1e-6)
    assert verdict.ratio == pytest.approx(1.0, rel=1e-6)
    assert verdict.quantisation == 1.0
    assert "Use Lipschitz certificates" in verdict.advice


def test_radii_that_are_small_beside_the_data_are_vacuous():
    inputs, labels = rows()
    certificates = holdfast.certify(linear(1.0), inputs, labels)
    small = dataclasses.replace(certificates, radius=0.05 * certificates.radius)
    inputs = inputs + 0.01 * torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    verdict = conditions_of((inputs, labels), ConditionsOptions(), small, 1.5)
    assert verdict.bounded == "vacuous" and verdict.quantisation is None
    assert "known well and too large" in verdict.advice
    loose = conditions_of((inputs, labels), ConditionsOptions(), small, 50.0)
    assert loose.bounded == "vacuous" and "a factor of 50 apart" in loose.advice


def test_one_class_leaves_the_quantisation_step():
    inputs, labels = (part[:2] for part in rows())
    verdict = conditions(linear(1.0), inputs, labels)
    assert verdict.bounded == "meaningful"
    assert verdict.resolution == verdict.quantisation == 1.0
    certificates = holdfast.certify(linear(1.0), inputs, labels)
    half = dataclasses.replace(certificates, radius=0.5 * certificates.radius)
    assert conditions_of((inputs, labels), ConditionsOptions(), half, 1.0).bounded == "vacuous"


def test_one_row_of_one_value_has_nothing_to_compare_with():
    inputs, labels = torch.full((1, 2), 2.0), torch.tensor([0])
    model = nn.Sequential(linear(1.0), nn.Linear(2, 2))
    model[1].weight.data, model[1].bias.data = torch.eye(2), torch.tensor([1.0, 0.0])
    verdict = conditions(model.eval(), inputs, labels)
    assert verdict.bounded == "meaningful" and verdict.resolution is None


def test_a_model_without_any_bound_is_unbounded():
    class Unknown(nn.Module):
        def forward(self, x):
            return torch.logcumsumexp(x, 1)

    verdict = conditions(Unknown().eval(), *rows())
    assert verdict.bounded == "unbounded" and verdict.ratio == math.inf
    assert verdict.advice.startswith("Use knowledge continuity")


def test_a_model_with_bounds_on_balls_alone_is_judged_by_its_radii():
    class Product(nn.Module):
        def forward(self, x):
            return x * x.flip(1) + x

    inputs, labels = rows()
    verdict = conditions(Product().eval(), inputs, labels)
    radius = float(holdfast.certify(Product().eval(), inputs, labels).radius.median())
    assert verdict.ratio == math.inf and verdict.median_radius == radius
    assert verdict.bounded in ("meaningful", "vacuous") or radius == 0.0


TOKENS = torch.tensor([[1, 2], [3, 4]])


@pytest.mark.parametrize(
    "inputs", [TOKENS, {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}]
)
def test_token_ids_have_no_metric(inputs):
    verdict = conditions(nn.Embedding(9, 3), inputs, torch.tensor([0, 1]))
    assert (verdict.metric, verdict.bounded) == ("none", "unbounded")
    assert verdict.ratio is verdict.median_radius is verdict.resolution is None
    assert "knowledge continuity" in verdict.advice


def test_a_distance_that_the_user_names_is_declared():
    verdict = conditions(linear(1.0), *rows(), metric="embedding")
    assert verdict.metric == "declared" and "embedding radii" in verdict.advice


def test_rows_that_are_not_finite_are_left_out():
    inputs, labels = rows()
    inputs = torch.cat([inputs, torch.full((1, 2), math.nan)])
    labels = torch.cat([labels, torch.tensor([1])])
    verdict = conditions(linear(1.0), inputs, labels)
    assert verdict.bounded == "meaningful" and verdict.resolution == pytest.approx(2**0.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm": 3}, "norm: got 3"),
        ({"labels": torch.tensor([0, 9, 0, 0])}, "values from 0 to 9"),
        ({"inputs": torch.ones(2, 2, dtype=torch.uint8)}, "divide by 255"),
        ({"inputs": {"x": torch.ones(2, 2)}}, "one tensor"),
        ({"inputs": ["one"]}, "one tensor"),
    ],
)
def test_arguments_that_are_not_usable(change, words):
    inputs, labels = rows()
    with pytest.raises(InvalidInput, match=words):
        conditions(linear(1.0), **({"inputs": inputs, "labels": labels} | change))


def test_a_model_that_cannot_be_captured_is_refused():
    with pytest.raises(Unsupported, match="Dropout: training mode"):
        conditions(nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train(), *rows())
