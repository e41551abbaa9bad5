"""One step: exact cases, the digits nets, bad input, and that nothing of the user's changes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.nets import crossed
from tests.smoothness.quadratics import ROWS, Quadratic, own_loss, quadratic, spectrum
from tests.smoothness.trainees import Noisy, same, state_of
from torch import nn
from torch.nn import functional

import holdfast
from holdfast.errors import InvalidInput, Unsupported
from holdfast.smoothness.eigen import DENSE, top_eigenvalue
from holdfast.sources.demo import DEMO_MODELS, demo_architecture, demo_data, demo_model

SPECTRA = {
    "three": [1.0, 2.0, 5.0],
    "one": [3.0],
    "indefinite": [-4.0, 1.0, 2.5],
    "many": [float(value) for value in range(1, 101)],
    "clustered": [1.0] * 99 + [1.0001],
    "low rank": [0.0] * 95 + [3.0] * 5,
    "large and small": [1e-6] * 50 + [1e6],
}


def measure(model, **options):
    return holdfast.descent(model, own_loss, *ROWS, **options)


@pytest.mark.parametrize("values", SPECTRA.values(), ids=SPECTRA)
def test_the_constant_of_a_quadratic_is_its_largest_eigenvalue(values):
    found = measure(quadratic(values), step=1e-3 / max(values))
    assert found.smoothness.top_eigenvalue == pytest.approx(max(values), rel=1e-6)
    assert found.smoothness.along_step <= max(map(abs, values)) * (1 + 1e-6)
    if min(values) >= 0:
        assert float(found.smoothness) == pytest.approx(max(values), rel=1e-6)
        assert found.largest_safe_step == pytest.approx(2 / max(values), rel=1e-6)


def test_along_an_eigenvector_the_promise_is_the_measurement():
    hessian = spectrum([1.0, 2.0, 5.0])
    top = torch.linalg.eigh(hessian).eigenvectors[:, -1]
    found = measure(Quadratic(hessian, 3 * top), step=0.1)
    assert found.smoothness.along_step == pytest.approx(5.0, rel=1e-9)
    assert found.predicted_change == pytest.approx(-(0.1 - 5 * 0.01 / 2) * 225, rel=1e-9)
    assert found.actual_change == pytest.approx(found.predicted_change, rel=1e-9)
    assert found.holds and found.improved


def runs_away(values, step, momentum, steps=1000):
    """Whether torch's own SGD leaves the start of a quadratic."""
    model = quadratic(values)
    optimizer = torch.optim.SGD(model.parameters(), lr=step, momentum=momentum)
    start = model.weight.detach().norm()
    for _ in range(steps):
        optimizer.zero_grad()
        model(ROWS[0]).backward()
        optimizer.step()
        if model.weight.detach().norm() > 1e3 * start:
            return True
    assert model.weight.detach().norm() < 1e-2 * start
    return False


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_training_diverges_just_above_the_safe_step_and_converges_just_below(momentum):
    values = [1.0, 2.0, 5.0]
    found = measure(quadratic(values), momentum=momentum)
    assert found.largest_safe_step == pytest.approx(2 * (1 + momentum) / 5, rel=1e-6)
    assert found.effective_step == pytest.approx(0.01 / (1 - momentum))
    assert runs_away(values, 1.02 * found.largest_safe_step, momentum)
    assert not runs_away(values, 0.98 * found.largest_safe_step, momentum)


@given(st.integers(0, 10**6), st.lists(st.floats(-3, 10), min_size=1, max_size=8))
def test_a_quadratic_keeps_the_promise_at_every_safe_step(seed, values):
    model = quadratic(values, seed % 1000)
    constant = max(map(abs, values))
    if constant < 1e-3:
        return
    found = measure(model, step=(1 + seed % 9) / (5 * constant))
    assert found.predicted_change > 0 or found.holds
    assert found.actual_change <= found.predicted_change + 1e-9 * (1 + abs(found.loss))


def test_linear_regression_has_the_constant_of_its_covariance():
    torch.manual_seed(0)
    inputs, targets = torch.randn(50, 4), torch.randn(50, 1)
    found = holdfast.descent(nn.Linear(4, 1), "mse", inputs, targets)
    rows = torch.cat([inputs, torch.ones(50, 1)], 1).double()
    exact = 2 * float(torch.linalg.eigvalsh(rows.T @ rows / 50)[-1])
    assert float(found.smoothness) == pytest.approx(exact, rel=1e-6)
    assert found.holds


def test_the_logistic_loss_stays_below_its_known_bound_and_reaches_it_at_zero():
    torch.manual_seed(0)
    inputs, labels = torch.randn(80, 5).double(), torch.randint(2, (80, 1)).double()
    covariance = torch.linalg.eigvalsh(inputs.T @ inputs / 80)[-1]
    model = nn.Linear(5, 1, bias=False).double()
    loss = functional.binary_cross_entropy_with_logits
    for scale in (3.0, 1.0, 0.0):
        nn.init.normal_(model.weight, std=1.0)
        model.weight.data.mul_(scale)
        found = holdfast.descent(model, loss, inputs, labels, step=0.5)
        assert float(found.smoothness) <= covariance / 4 * (1 + 1e-9)
        assert found.holds
    assert found.smoothness.top_eigenvalue == pytest.approx(float(covariance / 4), rel=1e-6)


@pytest.mark.parametrize(("name", "trained"), crossed(DEMO_MODELS, [True, False]))
def test_promise_and_measurement_agree_for_short_steps_on_digits(name, trained):
    torch.manual_seed(0)
    model = demo_model(name) if trained else demo_architecture(name)
    data = tuple(part[:600] for part in demo_data("digits"))
    constant = float(holdfast.descent(model, "cross_entropy", *data, step=1e-3).smoothness)
    for share in (0.1, 0.01):
        found = holdfast.descent(model, "cross_entropy", *data, step=share / constant)
        if found.step <= 0.1 / float(found.smoothness):
            assert found.predicted_change == pytest.approx(found.actual_change, rel=0.05)
        assert found.improved


def test_the_top_eigenvalue_is_that_of_the_whole_hessian():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    inputs, labels = torch.randn(20, 5).double(), torch.randint(3, (20,))
    found = holdfast.descent(model, "cross_entropy", inputs, labels)
    assert found.parameters == 57 > DENSE
    shapes = [p.shape for p in model.parameters()]

    def loss(point):
        pieces = point.split([shape.numel() for shape in shapes])
        names = [name for name, _ in model.named_parameters()]
        named = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        return functional.cross_entropy(torch.func.functional_call(model, named, inputs), labels)

    point = torch.cat([p.detach().flatten() for p in model.parameters()])
    hessian = torch.autograd.functional.hessian(loss, point)
    exact = float(torch.linalg.eigvalsh(hessian)[-1])
    assert found.smoothness.top_eigenvalue == pytest.approx(exact, rel=1e-6)


@given(st.integers(0, 10**6), st.integers(2, 60))
def test_both_ways_to_an_eigenvalue_agree(seed, size):
    torch.manual_seed(seed)
    half = torch.randn(size, size, dtype=torch.float64)
    matrix = half + half.T
    exact = float(torch.linalg.eigvalsh(matrix)[-1])
    assert top_eigenvalue(lambda v: matrix @ v, matrix[0]) == pytest.approx(exact, rel=1e-6)


def test_streamed_rows_give_the_same_answer_and_the_noise_of_a_batch():
    torch.manual_seed(0)
    model, data = nn.Linear(6, 3), (torch.randn(90, 6), torch.randint(3, (90,)))
    whole = holdfast.descent(model, "cross_entropy", *data)
    parts = holdfast.descent(model, "cross_entropy", *data, batch_size=20)
    assert (whole.noise, whole.noise_cost) == (None, None)
    for name in ("loss", "gradient_norm", "predicted_change", "actual_change"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9)
    assert float(parts.smoothness) == pytest.approx(float(whole.smoothness), rel=1e-6)
    assert parts.noise_cost == pytest.approx(float(parts.smoothness) * 1e-4 * parts.noise / 2)
    alike = (data[0][:1].expand(60, 6), data[1][:1].expand(60))
    same = holdfast.descent(model, "cross_entropy", *alike, batch_size=20)
    assert same.noise == pytest.approx(0.0, abs=1e-12)


def test_noise_is_the_variance_of_a_batch_gradient():
    torch.manual_seed(0)
    model, rows = nn.Linear(1, 1, bias=False).double(), torch.randn(1000, 1).double()
    targets = torch.zeros(1000, 1).double()
    found = holdfast.descent(model, "mse", rows, targets, batch_size=10)
    of_rows = (2 * model.weight.detach() * rows.square()).var()
    assert found.noise == pytest.approx(float(of_rows) / 10, rel=0.3)


def test_beyond_the_safe_step_the_lemma_promises_nothing():
    found = measure(quadratic([1.0, 2.0, 5.0]), step=0.6)
    assert found.predicted_change > 0 and not found.holds
    assert found.actual_change <= found.predicted_change


def test_a_step_over_a_bend_breaks_the_promise():
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 1.0)

    def bend(outputs, labels):  # flat curvature at both ends, a wall between them
        w = outputs.sum()
        return w.square() / 2 + torch.relu(-w - 0.5) * 100

    found = holdfast.descent(model, bend, torch.ones(1, 1), torch.zeros(1), step=1.9)
    assert found.actual_change > found.predicted_change or found.predicted_change > 0
    assert not found.holds


def test_at_a_minimum_nothing_moves_and_nothing_is_promised():
    found = measure(Quadratic(spectrum([1.0, 2.0]), torch.zeros(2)))
    assert (found.predicted_change, found.actual_change) == (0.0, 0.0)
    assert found.smoothness.along_step == 0.0
    assert found.holds and not found.improved


def test_a_loss_that_is_linear_in_the_weights_allows_every_step():
    model, rows = nn.Linear(70, 1), torch.ones(3, 70)
    found = holdfast.descent(model, lambda out, _: out.mean(), rows, torch.zeros(3))
    assert found.smoothness.top_eigenvalue == 0.0
    assert found.smoothness.along_step == pytest.approx(0.0, abs=1e-9)
    assert found.largest_safe_step == math.inf or found.largest_safe_step > 1e6
    assert found.document()["holds"] is True


def test_the_path_runs_from_nothing_to_beyond_the_safe_step():
    found = measure(quadratic([1.0, 2.0, 5.0]), step=0.1)
    steps = [change.step for change in found.path]
    assert steps == sorted(steps) and steps[0] == 0 and steps[-1] == pytest.approx(0.5)
    assert (found.path[0].predicted, found.path[0].actual) == (0.0, 0.0)
    assert all(change.actual <= change.predicted + 1e-12 for change in found.path)


BAD = {
    "step 0": ({"step": 0.0}, "step: got 0.0, wanted a finite number above 0"),
    "step below 0": ({"step": -0.1}, "step: got -0.1"),
    "step NaN": ({"step": math.nan}, "step: got nan"),
    "step inf": ({"step": math.inf}, "step: got inf"),
    "momentum 1": ({"momentum": 1.0}, "momentum: got 1.0, wanted a number from 0 to below 1"),
    "momentum below 0": ({"momentum": -0.1}, "momentum: got -0.1"),
    "momentum NaN": ({"momentum": math.nan}, "momentum: got nan"),
    "batch size": ({"batch_size": 0}, "batch_size: got 0"),
    "name": ({"loss": "crossentropy"}, "did you mean 'cross_entropy'"),
    "rows": ({"loss": nn.CrossEntropyLoss(reduction="none")}, "loss: got shape (8,), wanted one"),
    "number": ({"loss": lambda *_: 0.5}, "loss: got float, wanted one real number"),
    "constant": ({"loss": lambda *_: torch.ones(())}, "that no trainable parameter changes"),
    "detached": ({"loss": lambda out, _: out.detach().sum()}, "no trainable parameter changes"),
    "NaN": ({"loss": lambda out, _: out.sum() * math.nan}, "loss: got a loss of nan or"),
    "gradient": ({"loss": lambda out, _: (0 * out).sum().sqrt()}, "a gradient that is not finite"),
    "far": ({"loss": lambda out, _: out.square().sum(), "step": 1e300}, "step: got a loss of"),
    "classes": ({"labels": torch.full((8,), 3)}, "labels: got values from 3 to 3, wanted 0 to 2"),
    "images": ({"inputs": torch.zeros(8, 2, 4)}, "model: got outputs of shape (8, 2, 3)"),
    "targets": ({"loss": "mse"}, "labels: got shape (8,), wanted (8, 3)"),
    "labels": ({"labels": torch.zeros(3)}, "labels: got shape (3,), wanted a tensor of 8 rows"),
    "no label": ({"labels": None}, "labels: got None"),
    "bytes": ({"inputs": torch.zeros(8, 4).byte()}, "inputs: got uint8 values"),
}


@pytest.mark.parametrize(("options", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_reason(options, said):
    torch.manual_seed(0)
    given = {
        "loss": "cross_entropy",
        "inputs": torch.randn(8, 4),
        "labels": torch.zeros(8, dtype=torch.long),
    }
    with pytest.raises(InvalidInput) as refusal:
        holdfast.descent(nn.Linear(4, 3), **given | options)
    assert said in str(refusal.value)


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Linear(1, 1).requires_grad_(False)])
def test_a_model_without_trainable_parameters_is_refused(model):
    with pytest.raises(InvalidInput, match="model: got no trainable parameter"):
        holdfast.descent(model, "mse", torch.ones(2, 1), torch.ones(2, 1))


def test_a_model_that_insists_on_float32_is_refused():
    class Fixed(nn.Linear):
        def forward(self, x):
            return super().forward(x) @ torch.ones(3, 3)

    with pytest.raises(Unsupported, match=r"descent refused: .*evaluation in float64"):
        holdfast.descent(Fixed(4, 3), "cross_entropy", torch.ones(2, 4), torch.zeros(2).long())


class Once(torch.autograd.Function):
    """An operation that can be differentiated once."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad


def test_an_operation_without_second_derivative_is_named():
    with pytest.raises(Unsupported, match=r"curvature of the loss refused: .*Hessian"):
        holdfast.descent(
            nn.Linear(1, 1),
            lambda out, _: Once.apply(out).square().sum(),
            torch.ones(2, 1),
            torch.ones(2),
        )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ending", ["well", "badly", "midway"])
def test_nothing_of_the_users_changes(training, ending):
    torch.manual_seed(0)
    model = Noisy().train(training)
    inputs, labels = torch.randn(12, 4), torch.randint(3, (12,))
    optimizer = torch.optim.Adam(model.parameters())
    functional.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    calls = 0

    def loss(outputs, targets):
        nonlocal calls
        calls += 1
        if calls == 3 and ending == "midway":
            raise ArithmeticError("in the middle")
        return functional.cross_entropy(outputs, targets)

    kept = inputs.clone(), labels.clone()
    before = state_of(model, optimizer)
    if ending == "well":
        first = holdfast.descent(model, loss, inputs, labels)
        assert holdfast.descent(model, loss, inputs, labels) == first
    else:
        with pytest.raises((ArithmeticError, InvalidInput)):
            holdfast.descent(model, loss, inputs, labels, step=1e308 if ending == "badly" else 0.1)
    assert same(before, state_of(model, optimizer))
    assert same(kept, (inputs, labels))


def test_a_loss_with_weights_and_tied_parameters_are_taken_along():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    found = holdfast.descent(model, loss, torch.randn(9, 4), torch.randint(4, (9,)))
    assert found.parameters == 16 + 4 + 4
    assert found.holds


def test_attention_is_measured(seed=0):
    torch.manual_seed(seed)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    found = holdfast.descent(
        model, lambda out, _: out.square().mean() + out.sum().sin(),
        torch.randn(3, 5, 8), torch.zeros(3),
    )  # fmt: skip
    assert found.smoothness.top_eigenvalue > 0
