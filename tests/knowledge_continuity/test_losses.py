"""Losses: against plain formulas in Python, and what is refused."""

import math

import pytest
import torch

from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.states.losses import LOSSES, loss_roundings, row_losses

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.0, 0.0, 0.0], [-3.0, 4.0, 3.5], [30.0, -40.0, 80.0]])
LABELS = torch.tensor([0, 1, 2, 0])


def reference(name, logits, label):
    peak = max(logits)
    weights = [math.exp(z - peak) for z in logits]
    shares = [w / sum(weights) for w in weights]
    lead = logits[label] - max(z for c, z in enumerate(logits) if c != label)
    return {
        "cross_entropy": math.log(sum(weights)) + peak - logits[label],
        "zero_one": float(lead <= 0),
        "brier": sum((p - (c == label)) ** 2 for c, p in enumerate(shares)),
        "margin": max(0.0, 1 - lead),
    }[name]


@pytest.mark.parametrize("name", sorted({*LOSSES} - {"mse"}))
def test_agrees_with_the_plain_formula(name):
    expected = [
        reference(name, z, y) for z, y in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)
    ]
    losses = row_losses(name, LOGITS.requires_grad_(), LABELS)
    assert losses.dtype == torch.float64
    assert not losses.requires_grad
    assert losses.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_a_callable_sees_outputs_and_labels_as_they_are():
    outputs, targets = torch.ones(3, 1, 2), torch.tensor([0.5, 1.5, 2.5])
    losses = row_losses(lambda out, y: out.sum((1, 2)) - y, outputs, targets)
    assert losses.tolist() == [1.5, 0.5, -0.5]


@pytest.mark.parametrize("name", ["cross_entropy", "brier", "margin"])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_roundings_are_what_rounding_to_float32_changes(name, offset):
    generator = torch.Generator().manual_seed(0)
    exact = 3 * torch.randn(4000, 10, generator=generator, dtype=torch.float64) + offset
    exact[:, 7] = -1e9  # a class that is masked out adds nothing
    labels = torch.randint(7, (4000,), generator=generator)
    moved = (row_losses(name, exact.float(), labels) - row_losses(name, exact, labels)).abs()
    roundings = loss_roundings(name, exact.float(), labels)
    assert (moved <= 1.001 * roundings + 1e-12).all()  # to first order, and of float64's own
    assert moved.mean() <= roundings.mean() <= 20 * moved.mean()
    assert torch.allclose(loss_roundings(name, exact, labels) * 2**29, roundings, rtol=1e-3)


def test_roundings_of_losses_with_steps_of_callables_and_under_inference_mode():
    assert loss_roundings("zero_one", LOGITS, LABELS).tolist() == [0.0] * 4

    def half(outputs, labels):
        return outputs.sum(1).half()

    unit = torch.finfo(torch.half).eps / 2
    assert loss_roundings(half, LOGITS, LABELS)[3] == unit * 70
    with torch.inference_mode():
        logits = torch.tensor([[0.0, 1.0], [-math.inf, 0.0]])
        found = loss_roundings("cross_entropy", logits, torch.tensor([0, 1]))
        assert 1e-8 < found[0] < 1e-7 and found[1] == 0.0


@pytest.mark.parametrize(
    ("loss", "outputs", "labels", "message"),
    [
        ("crossentropy", LOGITS, LABELS, "did you mean 'cross_entropy'"),
        ("brier", LOGITS[:, :1], LABELS, "1 labels outside, wanted 0 to 1"),
        ("brier", LOGITS[:, None], LABELS, "at least 2 classes"),
        ("brier", LOGITS, LABELS[:2], r"labels: got shape \(2,\)"),
        ("brier", LOGITS, LABELS.double(), "integer class indices"),
        ("brier", LOGITS, LABELS + 1, "1 labels outside, wanted 0 to 2"),
        ("brier", LOGITS, LABELS - 1, "2 labels outside, wanted 0 to 2"),
        ("zero_one", LOGITS.where(LOGITS != 4, math.nan), LABELS, "NaN in 1 of 4 rows"),
        (lambda out, y: out, LOGITS, LABELS, "one loss per row"),
        (lambda out, y: 0.0, LOGITS, LABELS, "returning float"),
        (lambda out, y: out[:, 0] / 0, LOGITS, LABELS, "not finite in 4 of 4 rows"),
    ],
)
def test_what_does_not_fit_is_refused(loss, outputs, labels, message):
    with pytest.raises(InvalidInput, match=message):
        row_losses(loss, outputs, labels)
