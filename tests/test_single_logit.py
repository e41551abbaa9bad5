"""Models of one logit are classifiers of two classes, in every verb."""

import functools
import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.check.zoo import rewrite
from tests.nets import crossed
from torch import Tensor, nn

import holdfast
import holdfast_check
from holdfast.attacks.agreement import check_agreement
from holdfast.audits.audit import AuditOptions
from holdfast.certificates.files import describes
from holdfast.knowledge_continuity.states.losses import loss_roundings, row_losses

NORMS = (1.0, 2.0, math.inf)


class Number(nn.Module):
    """A model of one logit: [N], or [N, 1]."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        self.flat = flat

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).squeeze(-1) if self.flat else self.body(x)


class Pair(nn.Module):
    """The same as two logits, the way a user would write them."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.inner, self.threshold = Number(False), threshold

    def forward(self, x: Tensor) -> Tensor:
        z = self.inner(x) - self.threshold
        return torch.cat([-0.5 * z, 0.5 * z], 1)


class Twice(nn.Sequential):
    """The layers of a model of one logit z, and [0, z] after them."""

    def __init__(self, model: Number) -> None:
        super().__init__(*model.body, nn.ZeroPad1d((1, 0)))


def rows(threshold: float = 0.0) -> tuple[Tensor, Tensor]:
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
    return x, (Number(True)(x) > threshold).long()


@functools.cache
def certified(flat: bool, norm: float, method: str, semantics: str) -> holdfast.Certificates:
    model, (x, y) = Number(flat).eval(), rows(0.25)
    return holdfast.certify(model, x, y, norm, method, semantics, threshold=0.25)


@pytest.mark.parametrize(
    ("norm", "flat", "method"), crossed(NORMS, [True, False], ["global", "local", "auto"])
)
def test_radii_are_those_of_two_logits(norm: float, flat: bool, method: str) -> None:
    x, y = rows(0.25)
    one = certified(flat, norm, method, "real")
    two = holdfast.certify(Pair(0.25).eval(), x, y, norm, method)
    assert one.clean_accuracy == 1.0 and bool((one.radius > 0).all())
    assert torch.allclose(one.radius, two.radius, rtol=1e-9)
    executed = certified(flat, norm, method, "float32")
    assert bool((executed.radius <= one.radius).all()) and bool((executed.radius > 0).all())


@settings(max_examples=8)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.5, -1e-3, 2.0**-30]))
def test_a_linear_model_flips_beyond_the_radius(seed: int, threshold: float) -> None:
    """In l1 the exact distance is |w x + b - t| / max |w|."""
    torch.manual_seed(seed)
    model, x = nn.Linear(3, 1).eval(), torch.randn(1, 3)
    weight, (bias,) = model.weight[0].tolist(), model.bias.tolist()
    pairs = zip(weight, x[0].tolist(), strict=True)
    value = sum(Fraction(w) * Fraction(v) for w, v in pairs) + Fraction(bias)
    gap = value - Fraction(float(torch.tensor(threshold)))
    found = holdfast.certify(model, x, [int(gap > 0)], 1, threshold=threshold)
    distance = abs(gap) / max(abs(Fraction(w)) for w in weight)
    assert distance * (1 - Fraction(1, 10**8)) <= Fraction(float(found.radius)) <= distance


@pytest.mark.parametrize("flat", [True, False])
def test_attacks_find_the_other_class_outside_of_the_ball(flat: bool) -> None:
    model, (x, y) = Number(flat).eval(), rows(0.25)
    certificates = certified(flat, 2.0, "auto", "real")
    attacks = holdfast.attack(model, x, y, threshold=0.25)
    assert set(attacks.reason) == {"found"}
    assert bool((attacks.distance >= certificates.radius).all())
    assert torch.equal((Number(True)(attacks.adversarial) > 0.25).long(), 1 - y)
    assert check_agreement(holdfast.capture(model, x), certificates, attacks) == ()


def test_a_file_proves_it_for_its_own_threshold(tmp_path: Path) -> None:
    path, model = tmp_path / "c.json", Number(True).eval()
    certified(True, 2.0, "global", "real").save(path)
    report = holdfast_check.check(path)
    assert (report.proved, report.claimed) == (12, 0)
    assert describes(path, model)
    loaded = holdfast.Certificates.load(path)
    assert loaded.threshold == 0.25 and bool((loaded.radius > 0).all())
    document = json.loads(path.read_text())
    document["threshold"] = (0.0).hex()
    path.write_text(json.dumps(document))
    assert not describes(path, model)


class Shifted(Number):
    """A model of one logit that ends in a shift of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - 0.125


@pytest.mark.parametrize("double", [True, False])
def test_a_file_with_another_threshold_proves_nothing(tmp_path: Path, double: bool) -> None:
    path, (x, _) = tmp_path / "c.json", rows()
    kind = torch.float64 if double else torch.float32
    model, x = Shifted(False).to(kind), x.to(kind)
    y = (model.eval()(x) > 0.1).flatten().long()
    holdfast.certify(model, x, y, method="global", threshold=0.1).save(path)
    assert holdfast_check.check(path).proved > 0
    for wrong in (0.1 + 2.0**-20, -0.1, 0.225, 1e300):
        rewrite(path, lambda document, arrays, wrong=wrong: document.update(threshold=wrong.hex()))
        with pytest.raises(holdfast_check.Rejected, match="another threshold"):
            holdfast_check.check(path)


def test_a_file_of_several_logits_has_no_threshold(tmp_path: Path) -> None:
    path, (x, _) = tmp_path / "c.json", rows()
    model = Twice(Number(False)).eval()
    found = holdfast.certify(model, x, model(x).argmax(1), method="global", threshold=0.25)
    found.save(path)
    assert found.threshold == 0.0 and holdfast_check.check(path).proved > 0
    rewrite(path, lambda document, arrays: document.update(threshold=(0.25).hex()))
    with pytest.raises(holdfast_check.Rejected, match="another threshold"):
        holdfast_check.check(path)


@pytest.mark.parametrize("flat", [True, False])
def test_losses_are_those_of_pytorch(flat: bool) -> None:
    x, y = rows()
    model, x = Number(flat).double().eval(), x.double()
    z = model(x).detach()
    each = nn.functional.binary_cross_entropy_with_logits(z.flatten(), y.double(), reduction="none")
    assert torch.allclose(row_losses("cross_entropy", z, y), each)
    unit = torch.finfo(torch.float64).eps / 2
    slopes = (z.flatten().sigmoid() - y).abs() * z.flatten().abs()
    assert torch.allclose(loss_roundings("cross_entropy", z, y), unit * slopes, atol=0)
    assert holdfast.descent(model, "cross_entropy", x, y).loss == pytest.approx(float(each.mean()))
    one, two = (holdfast.knowledge(m, x, ["0"], labels=y) for m in (model.body, Twice(model)))
    assert one.accuracy == two.accuracy == 1.0
    assert one.volatility["0"].value == pytest.approx(two.volatility["0"].value)


def test_a_threshold_moves_answers_and_no_cross_entropy() -> None:
    x, y = rows(0.25)
    model, z = Number(True).eval(), Number(True)(x).detach()
    assert holdfast.knowledge(model, x, labels=y, threshold=0.25).accuracy == 1.0
    assert holdfast.knowledge(model, x, labels=y).accuracy < 1.0
    assert row_losses("zero_one", z, y, 0.25).tolist() == [0.0] * 12
    assert row_losses("zero_one", z, y).sum() > 0
    moved = row_losses("cross_entropy", z, y, 0.25)
    assert torch.equal(moved, row_losses("cross_entropy", z, y))


def test_an_audit_holds_all_parts(tmp_path: Path) -> None:
    x, y = rows(0.25)
    options = AuditOptions(seconds=0.2, threshold=0.25)
    (subject,) = holdfast.audit(Number(True).eval(), (x, y), tmp_path, options).document["subjects"]
    assert subject["accuracy"] == subject["certificates"]["clean_accuracy"] == 1.0
    parts = ("lipschitz", "certificates", "attacks", "conditions", "knowledge", "descent")
    assert not [part for part in parts if "refused" in subject[part]]


def test_targets_stay_a_regression() -> None:
    x, _ = rows()
    found = holdfast.certify(Number(True).eval(), x, torch.randn(12))
    assert set(found.reason) == {"no_class"} and bool((found.output_change(0.1) > 0).all())


@pytest.mark.parametrize("threshold", [math.nan, math.inf, "high", None])
def test_a_threshold_is_a_finite_number(threshold: object) -> None:
    x, y = rows()
    for verb in (holdfast.certify, holdfast.attack, holdfast.conditions):
        with pytest.raises(
            holdfast.InvalidInput, match=r"threshold: got .*, wanted a finite logit"
        ):
            verb(Number(True).eval(), x, y, threshold=threshold)


def test_labels_are_two_classes() -> None:
    x, y = rows()
    with pytest.raises(holdfast.InvalidInput, match="0 to 1"):
        holdfast.certify(Number(True).eval(), x, y + 1)
