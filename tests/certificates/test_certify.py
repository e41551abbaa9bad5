"""Certified radii against exact counterexamples, and the traps of other certifiers."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.nets import MaxMin
from torch import Tensor, nn

import holdfast
from holdfast.brackets.rates import Rates
from holdfast.errors import InvalidInput
from holdfast.sources.demo import demo_data, demo_model


def linear(rows: list[list[float]]) -> nn.Linear:
    model = nn.Linear(len(rows[0]), len(rows), bias=False)
    model.weight.data = torch.tensor(rows)
    return model.eval()


@settings(max_examples=5)
@given(st.integers(0, 2**31), st.sampled_from([1, 2, math.inf]))
def test_a_linear_classifier_flips_exactly_beyond_the_radius(seed: int, norm: float) -> None:
    """The true radius of a linear net is known: ours lies below it and within 1e-8."""
    torch.manual_seed(seed)
    model = nn.Linear(4, 3).eval()
    x = torch.randn(1, 4)
    label = model(x).argmax(1)
    with torch.no_grad():
        weight, bias = model.weight.double(), model.bias.double()
        logits = x.double() @ weight.T + bias
    y = int(label)
    order = {1: math.inf, 2: 2, math.inf: 1}[norm]
    true = min(
        float(
            (logits[0, y] - logits[0, j]) / torch.linalg.vector_norm(weight[y] - weight[j], order)
        )
        for j in range(3)
        if j != y
    )
    certificates = holdfast.certify(model, x, label, norm=norm)
    radius = float(certificates.radius)
    assert true * (1 - 1e-8) - 1e-12 <= radius <= true * (1 + 1e-12)


def squared_distance_to_boundary(weight: list[list[float]], x: list[float], y: int) -> Fraction:
    """Return the exact squared l2 distance to the nearest class boundary of a linear net."""
    rows = [[Fraction(value) for value in row] for row in weight]
    point = [Fraction(value) for value in x]
    best = None
    for j, row in enumerate(rows):
        if j == y:
            continue
        difference = [a - b for a, b in zip(rows[y], row, strict=True)]
        margin = sum(d * v for d, v in zip(difference, point, strict=True))
        square = margin**2 / sum(d * d for d in difference)
        best = square if best is None else min(best, square)
    return best


@settings(max_examples=5)
@given(st.integers(0, 2**31), st.sampled_from([1.0, 2.0**20, 1e-6, 2.0**-100]))
def test_the_radius_is_below_the_exact_distance(seed: int, scale: float) -> None:
    """Families U3, U4, U6: cancellation, tiny weights and rounding to nearest, in rationals."""
    torch.manual_seed(seed)
    model = linear((torch.randn(3, 3) * scale).tolist())
    # A point near a boundary, so that the margin cancels.
    x = torch.randn(1, 3, dtype=torch.float64)
    normal = (model.weight[0] - model.weight[1]).detach().double()
    x = x - (x @ normal)[:, None] * normal / normal.square().sum()
    x = (x + 1e-6 * torch.randn(1, 3)).float()
    with torch.no_grad():
        exact = [
            sum(Fraction(w) * Fraction(v) for w, v in zip(row, x[0].tolist(), strict=True))
            for row in model.weight.tolist()
        ]
    y = exact.index(max(exact))
    certificates = holdfast.certify(model, x, torch.tensor([y]))
    radius = Fraction(float(certificates.radius))
    distance = squared_distance_to_boundary(model.weight.tolist(), x[0].tolist(), y)
    assert radius**2 <= distance


def demo_certificates(name: str) -> holdfast.Certificates:
    inputs, labels = (part[:120] for part in demo_data())
    return holdfast.certify(demo_model(name), inputs, labels)


@pytest.mark.parametrize(
    "name", ["digits-bounded", pytest.param("digits-plain", marks=pytest.mark.slow)]
)
def test_deep_nets_are_not_fooled_within_the_radius(name: str) -> None:
    """Walk from a row towards its nearest other row: the class holds inside the ball."""
    inputs, labels = demo_data()
    certificates = demo_certificates(name)
    rows = (certificates.radius > 0).nonzero().flatten()[:8]
    double = demo_model(name).double()
    for row in rows.tolist():
        others = inputs[labels != labels[row]].double()
        direction = others - inputs[row].double()
        unit = direction / direction.norm(dim=1, keepdim=True)
        moved = inputs[row].double() + unit * float(certificates.radius[row]) * (1 - 1e-12)
        with torch.no_grad():
            assert bool((double(moved).argmax(1) == labels[row]).all())


@pytest.mark.slow
def test_useful_where_trained_for_and_vacuous_where_not() -> None:
    plain, bounded = (demo_certificates(name) for name in ("digits-plain", "digits-bounded"))
    assert plain.verified_accuracy(0.5) < 0.05
    assert bounded.verified_accuracy(0.5) > 0.7
    assert abs(plain.clean_accuracy - bounded.clean_accuracy) < 0.03


def test_every_zero_has_its_reason() -> None:
    model = linear([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    inputs = torch.tensor([[3.0, 1.0], [1.0, 3.0], [2.0, 2.0], [math.nan, 0.0], [1.0, 2.0]])
    labels = torch.tensor([0, 0, 0, 0, 1])
    certificates = holdfast.certify(model, inputs, labels)
    assert certificates.reason == ("certified", "misclassified", "tie", "not_finite", "tie")
    assert certificates.radius.tolist()[1:] == [0.0] * 4
    assert certificates.predicted[3] == -1
    assert certificates.clean_accuracy == pytest.approx(0.6)


def test_all_logits_tied_is_not_masked_out() -> None:
    """Family U5: equal logits must not disappear from the runners-up."""
    model = linear([[0.0, 0.0], [0.0, 0.0]])
    certificates = holdfast.certify(model, torch.ones(1, 2), torch.tensor([0]))
    assert (float(certificates.radius), certificates.reason) == (0.0, ("tie",))


def test_margins_within_rounding_are_not_certified() -> None:
    """Family U7: biases of size 2^40 leave no digits for the margin."""
    model = nn.Linear(2, 2)
    model.weight.data = torch.tensor([[1e-4, 0.0], [0.0, 1e-4]])
    model.bias.data = torch.tensor([2.0**40, 2.0**40])
    certificates = holdfast.certify(model.eval(), torch.tensor([[1.0, 0.5]]), torch.tensor([0]))
    assert certificates.reason[0] in ("within_rounding", "tie")
    assert float(certificates.radius) == 0.0


def test_a_row_that_nothing_can_change_is_unbounded() -> None:
    """Trap 24: zero weights give an infinite radius only for a strictly positive margin."""
    model = nn.Linear(2, 2)
    model.weight.data.zero_()
    model.bias.data = torch.tensor([1.0, 0.0])
    certificates = holdfast.certify(model.eval(), torch.zeros(1, 2), torch.tensor([0]))
    assert float(certificates.radius) == math.inf


def test_an_unbounded_constant_is_a_reason() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x[:, 0] * 0.0 + 1.0, x[:, 0].sqrt()], 1)

    x, label = torch.zeros(1, 1), torch.tensor([0])
    assert holdfast.certify(Root(), x, label).reason == ("unbounded_constant",)
    assert holdfast.certify(Root(), x, label, method="local").reason == ("not_bounded",)


def test_a_ball_ends_where_a_normalisation_without_epsilon_is_not_defined() -> None:
    """All entries equal give 0 / 0, at distance 1 in linf, whatever the logits are elsewhere."""
    model = nn.Sequential(nn.LayerNorm(2, eps=0.0), nn.Linear(2, 2)).eval()
    model[1].weight.data = 0.01 * torch.eye(2)
    model[1].bias.data = torch.tensor([1.0, 0.0])
    certificates = holdfast.certify(model, torch.tensor([[1.0, 3.0]]), torch.tensor([0]), math.inf)
    assert 0.9 < float(certificates.radius) < 1.0


def test_radii_do_not_depend_on_batch_or_order_or_threads() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4)).eval()
    inputs = torch.randn(20, 20)
    labels = model(inputs).argmax(1)
    whole = holdfast.certify(model, inputs, labels).radius
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    shuffled = holdfast.certify(model, inputs[order], labels[order]).radius
    assert torch.equal(shuffled, whole[order])
    single = [holdfast.certify(model, inputs[i : i + 1], labels[i : i + 1]).radius for i in (0, 7)]
    assert torch.equal(torch.cat(single), whole[[0, 7]])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(holdfast.certify(model, inputs, labels).radius, whole)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("activation", "wins"), [(nn.ReLU, "local"), (MaxMin, "global")])
def test_every_constant_that_a_row_needs_is_tightened(activation, wins: str) -> None:
    torch.manual_seed(3)
    layers = [nn.Linear(8, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 5)]
    for layer in layers[::2]:
        nn.init.orthogonal_(layer.weight)
    net, inputs = nn.Sequential(*layers).eval(), torch.randn(30, 8)
    labels = net(inputs).argmax(1)
    rates = Rates(holdfast.capture(net, inputs[:1]), 2)
    for i in range(5):
        for j in range(i):
            rates.tighten(i, j)
    logits = net.double()(inputs.double()).detach()
    gaps = logits.gather(1, labels[:, None]) - logits
    everywhere = (gaps / rates.pairs[labels]).nan_to_num(math.inf).amin(1)
    net.float()
    alone = holdfast.certify(net, inputs, labels, method="global")
    torch.testing.assert_close(alone.radius, everywhere, rtol=1e-6, atol=0.0)
    around = holdfast.certify(net, inputs, labels, method="local")
    both = holdfast.certify(net, inputs, labels)
    assert torch.equal(both.radius, torch.maximum(alone.radius, around.radius))
    assert wins in both.method


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_without_a_linear_end_the_whole_constant_counts(norm: float) -> None:
    model = nn.Sequential(linear([[1.0, 0.0], [0.0, 1.0]]), nn.Softmax(-1)).eval()
    x = torch.tensor([[2.0, 0.0]])
    radius = float(holdfast.certify(model, x, torch.tensor([0]), norm=norm).radius)
    # The logits differ by 2 and each moves by at most r; in l1 and l2 the true distance is more.
    assert 0 < radius <= {1: 2.0, 2: 2**0.5, math.inf: 1.0}[norm]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0, 1, 2]), "0 to 1"),
        (torch.tensor([0, -1, 1]), "0 to 1"),
        (torch.tensor([0.0, 1.0, 0.0]), "class numbers are integers"),
        (torch.tensor([0, 1]), "one per input"),
    ],
)
def test_labels_out_of_range(labels: Tensor, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        holdfast.certify(linear([[1.0, 0.0], [0.0, 1.0]]), torch.randn(3, 2), labels)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"method": "best"}, "method"),
        ({"semantics": "float16"}, "semantics"),
        ({"norm": 0}, "norm"),
    ],
)
def test_choices_out_of_range(arguments: dict, name: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{name}: got"):
        holdfast.certify(linear([[1.0], [0.0]]), torch.ones(1, 1), torch.tensor([0]), **arguments)


def test_inputs_that_are_no_rows() -> None:
    model, labels = linear([[1.0], [0.0]]), torch.tensor([0])
    for inputs, words in (
        (torch.zeros(0, 1), "at least one row"),
        (torch.ones(1, 1, dtype=torch.uint8), "divide by 255"),
        ({"x": torch.ones(1, 1)}, "one tensor"),
    ):
        with pytest.raises(InvalidInput, match=words):
            holdfast.certify(model, inputs, labels)


def test_logits_that_overflow_are_not_finite_and_the_file_can_be_read(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 2)).double()
    for layer in model:
        layer.weight.data.fill_(1e200)
    inputs = torch.full((1, 1), 1e300, dtype=torch.float64)
    certificates = holdfast.certify(model.eval(), inputs, torch.tensor([0]))
    assert certificates.reason == ("not_finite",) and int(certificates.predicted) == -1
    certificates.save(tmp_path / "c.json")
    assert (
        holdfast.Certificates.load(tmp_path / "c.json", claimed=True).reason == certificates.reason
    )
