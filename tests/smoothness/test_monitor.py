"""Along a run: known quadratics, every optimiser's metric and limit, and no trace left."""

import dataclasses
import json
import math
import random
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.smoothness.quadratics import ROWS, Quadratic, quadratic, spectrum
from tests.smoothness.trainees import Noisy, same, state_of, values_of
from torch import nn
from torch.nn import functional

from holdfast import DescentMonitor
from holdfast.errors import HoldfastWarning, InvalidInput
from holdfast.smoothness.metric import rule_of, scales
from holdfast.smoothness.records import read_measurements
from holdfast.smoothness.ritz import rayleigh_ritz

VALUES = [0.1, 1.0, 2.0, 5.0]


def train(model, optimizer, steps, **options):
    """Run plain training of a quadratic under a monitor."""
    given = {"every": 1, "loss": lambda: model(ROWS[0])} | options
    with DescentMonitor(optimizer, **given) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            model(ROWS[0]).backward()
            optimizer.step()
    return monitor


def test_on_a_quadratic_every_number_is_the_exact_one():
    model = quadratic(VALUES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = train(model, optimizer, 41)
    assert monitor.sharpness == pytest.approx(5.0, rel=1e-6)
    last = monitor.measurements[-1]
    assert last.largest_safe_step == pytest.approx(0.4, rel=1e-6)
    assert monitor.ratio == last.ratio == pytest.approx(0.25, rel=1e-6)
    assert monitor.improved == 1.0 and not monitor.edge_of_stability
    for one in monitor.measurements:
        assert (one.metric, one.same_batch) == ("l2", True)
        if one.predicted_change is None:  # only the losses were looked at
            assert one.along_step is one.sharpness is None
        else:
            assert one.along_step <= 5.0 + 1e-9 and one.sharpness <= 5.0 + 1e-9
    looked = [one for one in monitor.measurements if one.predicted_change is not None]
    assert [one.step for one in looked] == list(range(0, 41, 4))
    for one in looked[4:]:
        assert one.actual_change <= one.predicted_change + 1e-12


def test_the_promise_of_a_plain_step_is_that_of_the_lemma():
    hessian = spectrum(VALUES)
    top = torch.linalg.eigh(hessian).eigenvectors[:, -1]
    model = Quadratic(hessian, 2 * top)
    (one,) = train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1).measurements
    assert one.predicted_change == pytest.approx(-(0.1 - 5 * 0.01 / 2) * 100, rel=1e-9)
    assert one.actual_change == pytest.approx(one.predicted_change, rel=1e-9)


RULES = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.5, "dampening": 0.3},
    {"momentum": 0.9, "dampening": 0.9},  # the running mean of Adam
    {"momentum": 0.9, "nesterov": True},
    {"dampening": 0.5},
]


@pytest.mark.parametrize("options", RULES, ids=str)
def test_runs_settle_just_below_the_limit_and_leave_just_above_it(options):
    group = torch.optim.SGD(quadratic(VALUES).parameters(), lr=1.0, **options).param_groups[0]
    limit = rule_of(torch.optim.SGD(quadratic(VALUES).parameters(), lr=1.0)).limit(group)
    for share, settles in ((0.99, True), (1.01, False)):
        model = quadratic([0.5, 5.0])
        optimizer = torch.optim.SGD(model.parameters(), lr=share * limit / 5, **options)
        start = model.weight.detach().norm()
        for _ in range(1000):
            optimizer.zero_grad()
            model(ROWS[0]).backward()
            optimizer.step()
            if not model.weight.detach().norm() < 1e6:
                break
        assert (model.weight.detach().norm() < start) == settles


METRICS = {
    "Adam": (torch.optim.Adam, {}, "exp_avg"),
    "Adam eps": (torch.optim.Adam, {"eps": 0.1, "betas": (0.5, 0.9)}, "exp_avg"),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}, "exp_avg"),
    "AdamW": (torch.optim.AdamW, {"weight_decay": 0.0}, "exp_avg"),
    "RMSprop": (torch.optim.RMSprop, {}, None),
    "RMSprop centered": (torch.optim.RMSprop, {"centered": True}, None),
    "Adagrad": (torch.optim.Adagrad, {"lr_decay": 0.2}, None),
    "SGD": (torch.optim.SGD, {}, None),
}


@pytest.mark.parametrize(("kind", "options", "momentum"), METRICS.values(), ids=METRICS)
def test_a_step_is_the_gradient_in_the_metric_of_its_optimiser(kind, options, momentum):
    torch.manual_seed(0)
    first, second = (nn.Parameter(torch.randn(5, dtype=torch.float64)) for _ in range(2))
    groups = [{"params": [first]}, {"params": [second], "lr": 0.03}]
    optimizer = kind(groups, lr=0.01, **options)
    for _ in range(4):
        for p in (first, second):
            p.grad = torch.randn(5, dtype=torch.float64)
        point = torch.cat([first, second]).detach()
        optimizer.step()
        way = torch.cat([first, second]).detach() - point
        scale = scales(optimizer, rule_of(optimizer), [first, second])
        driven = [optimizer.state[p][momentum] if momentum else p.grad for p in (first, second)]
        torch.testing.assert_close(way, -0.01 * torch.cat(driven) / scale, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(
    "kind", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.SGD]
)
def test_sharpness_is_the_top_eigenvalue_in_the_metric(kind):
    model = quadratic(VALUES)
    optimizer = kind(model.parameters(), lr=1e-9)  # stands still: the metric settles
    monitor = train(model, optimizer, 161, every=2)
    scale = scales(optimizer, rule_of(optimizer), [model.weight])
    scale = torch.ones(4) if scale is None else scale
    exact = scipy.linalg.eigh(model.hessian.numpy(), np.diag(scale.numpy()), eigvals_only=True)
    assert monitor.sharpness == pytest.approx(exact[-1], rel=1e-3)


def test_groups_with_their_own_step_count_by_it():
    model = nn.ParameterList([torch.ones(1).double(), torch.ones(1).double()])
    optimizer = torch.optim.SGD(
        [{"params": [model[0]], "lr": 0.1}, {"params": [model[1]], "lr": 0.5}]
    )

    def loss():
        return (model[0].square() + model[1].square()).sum()

    with DescentMonitor(optimizer, every=1, loss=loss) as monitor:
        for _ in range(30):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    # the second group reaches its limit of 2 / 2 at twice its step, so at 0.2 of the first group's
    assert monitor.measurements[-1].largest_safe_step == pytest.approx(0.2, rel=1e-4)


def test_an_unknown_optimiser_is_measured_in_l2_against_two_over_l():
    model = quadratic(VALUES)
    optimizer = torch.optim.Rprop(model.parameters(), lr=0.01)
    monitor = train(model, optimizer, 21)
    last = monitor.measurements[-1]
    assert last.metric == "l2"
    assert last.largest_safe_step == pytest.approx(2 / max(last.sharpness, last.along_step))


def test_a_standing_optimiser_is_not_measured_and_a_frozen_group_counts_for_nothing():
    model = quadratic(VALUES)
    monitor = train(model, torch.optim.SGD(model.parameters(), lr=0.0), 3)
    assert monitor.measurements == [] and monitor.improved is None and monitor.ratio is None
    other = nn.Parameter(torch.ones(1).double())
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [other], "lr": 0.0}]
    optimizer = torch.optim.SGD(groups)
    loss = {"loss": lambda: model(ROWS[0]) + 50 * other.square().sum()}
    monitor = train(model, optimizer, 41, **loss)
    assert monitor.sharpness == pytest.approx(5.0, rel=1e-3)


def test_the_edge_of_stability_is_warned_of_once():
    model = quadratic(VALUES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.41)
    with pytest.warns(
        HoldfastWarning, match=r"edge of stability at step \d+: .* 1\.0\d of"
    ) as told:
        monitor = train(model, optimizer, 60)
    assert len(told) == 1 and monitor.edge_of_stability
    assert monitor.improved < 1.0


def test_the_first_step_of_adam_is_no_edge_of_stability():
    model = quadratic(VALUES)
    model.weight.data *= 1e-3  # one small gradient makes the metric small, and this step long
    monitor = train(model, torch.optim.Adam(model.parameters(), lr=0.1), 5)  # a warning would fail
    assert monitor.measurements[0].ratio > 50 and monitor.ratio < 0.2


def test_a_run_that_is_not_finite_is_told_and_kept_as_nothing(tmp_path):
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with pytest.warns(HoldfastWarning, match="not finite at step 0") as told:
        monitor = DescentMonitor(
            optimizer, every=1, loss=(weight * math.inf).sum, out=tmp_path / "r.jsonl"
        )
        for _ in range(3):
            weight.grad = torch.ones(1)
            optimizer.step()
    monitor.close()
    assert len(told) == 1 and monitor.improved == 0.0
    assert [one.loss for one in read_measurements(tmp_path / "r.jsonl")] == [None] * 3


def test_without_a_loss_neighbouring_gradients_tell_the_change():
    model = quadratic(VALUES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []

    def closure():
        optimizer.zero_grad()
        losses.append(model(ROWS[0]))
        losses[-1].backward()
        return losses[-1]

    with DescentMonitor(optimizer, every=3) as monitor:
        for _ in range(10):
            optimizer.step(closure)
    changes = torch.stack(losses).detach().diff().tolist()
    assert [one.step for one in monitor.measurements] == [0, 3, 6]
    for one in monitor.measurements:
        assert one.actual_change == pytest.approx(changes[one.step], rel=1e-9)
        assert 0 < one.along_step <= 5.0
        assert not one.same_batch
        assert one.loss is one.predicted_change is one.sharpness is None


def test_both_styles_of_training_without_a_loss_agree():
    found = []
    for closed in (True, False):
        model = quadratic(VALUES)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = model(ROWS[0])
            loss.backward()
            return loss

        with DescentMonitor(optimizer, every=2) as monitor:
            for _ in range(6):
                if closed:
                    optimizer.step(closure)
                else:
                    closure()
                    optimizer.step()
        found.append(monitor.measurements)
    assert found[0] == found[1]


def run(watched, style, fail_at=None):
    """Train a model that is easily disturbed; return what is left of the run."""
    torch.manual_seed(0)
    random.seed(0)
    model = Noisy()
    optimizer = (torch.optim.Adam if style == "Adam" else torch.optim.SGD)(
        model.parameters(), lr=0.05
    )
    rows = torch.randn(64, 4), torch.randint(3, (64,))
    batch = [rows[0][:8], rows[1][:8]]
    calls = 0

    def loss():
        return functional.cross_entropy(model(batch[0]), batch[1])

    def seen():
        nonlocal calls
        calls += 1
        if calls == fail_at:
            model(batch[0])
            raise ArithmeticError("in the middle")
        return loss()

    monitor = DescentMonitor(optimizer, every=2, loss=seen if style != "bare" else None)
    if not watched:
        monitor.close()
    for step in range(12):
        batch[:] = (part[8 * (step % 8) :][:8] for part in rows)
        optimizer.zero_grad()
        loss().backward()
        before = state_of(model, optimizer)
        try:
            optimizer.step()
        except ArithmeticError:
            # the failing call was the one before the step: nothing may have changed
            if calls % 2:
                assert same(before, state_of(model, optimizer))
    monitor.close()
    return values_of(model, optimizer), monitor


@pytest.mark.parametrize("style", ["SGD", "Adam", "bare"])
def test_a_run_under_a_monitor_is_the_same_run_bit_for_bit(style):
    alone, _ = run(False, style)
    watched, monitor = run(True, style)
    assert len(monitor.measurements) == 6
    assert same(alone, watched)


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_loss_that_fails_ends_the_step_and_changes_nothing_else(call):
    left, _ = run(True, "SGD", fail_at=call)
    skipped = call % 2  # a failure before the step prevents it, one after it does not
    if not skipped:
        assert same(left, run(False, "SGD")[0])


def test_both_losses_of_a_step_are_of_the_same_dropout():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 1))
    x = torch.randn(16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    with DescentMonitor(optimizer, every=1, loss=lambda: model(x).square().mean()) as monitor:
        for _ in range(5):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    assert all(abs(one.actual_change) < 1e-3 for one in monitor.measurements)


@given(st.integers(0, 10**6), st.integers(1, 6), st.booleans())
def test_ritz_values_are_the_best_over_the_span(seed, size, plain):
    torch.manual_seed(seed)
    half = torch.randn(size, size, dtype=torch.float64)
    matrix = half + half.T
    scale = None if plain else torch.rand(size, dtype=torch.float64) + 0.1
    xs = [torch.randn(size, dtype=torch.float64) for _ in range(min(size, 2))]
    value, ahead = rayleigh_ritz(xs, [matrix @ x for x in xs], scale)
    metric = torch.eye(size).double() if scale is None else torch.diag(scale)
    basis = torch.stack(xs, 1)
    small = basis.T @ matrix @ basis, basis.T @ metric @ basis
    exact, mix = scipy.linalg.eigh(*(part.numpy() for part in small))
    assert value == pytest.approx(exact[-1], rel=1e-6, abs=1e-9)
    image = torch.linalg.solve(metric, matrix @ basis @ torch.from_numpy(mix[:, -1]))
    error = min((image - ahead).norm(), (image + ahead).norm())
    assert error <= 1e-5 * (1 + image.norm())


def test_parallel_directions_count_once():
    matrix, x = torch.diag(torch.tensor([1.0, 4.0])), torch.tensor([1.0, 1.0])
    for other in (-2 * x, 0 * x):
        value, _ = rayleigh_ritz([x, other], [matrix @ x, matrix @ other], None)
        assert value == pytest.approx(2.5)


def test_what_cannot_be_differentiated_twice_has_no_sharpness():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad):
            return grad

    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def loss():
        return Once.apply(weight).square().sum()

    with (
        pytest.warns(HoldfastWarning, match="no sharpness: ") as told,
        DescentMonitor(
            optimizer, every=1, loss=lambda: Once.apply(weight).square().sum()
        ) as monitor,
    ):
        for _ in range(9):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    assert len(told) == 1 and monitor.sharpness is None
    assert monitor.measurements[-1].along_step == pytest.approx(2.0, rel=1e-3)


def test_the_file_holds_what_was_measured_line_by_line(tmp_path):
    model, path = quadratic(VALUES), tmp_path / "run.jsonl"
    monitor = train(model, torch.optim.SGD(model.parameters(), lr=0.1), 9, out=path)
    assert read_measurements(path) == monitor.measurements
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(9))


def test_lines_of_earlier_versions_are_read(tmp_path):
    model, path = quadratic(VALUES), tmp_path / "run.jsonl"
    monitor = train(model, torch.optim.SGD(model.parameters(), lr=0.1), 3, out=path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        del line["rounding"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    known = [dataclasses.replace(one, rounding=0.0) for one in monitor.measurements]
    assert read_measurements(path) == known


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_fall_of_the_loss_below_its_rounding_is_no_improvement(kind):
    """A loss near 1 that falls by 1e-9 a step: float32 does not hold that, float64 does."""
    weight = nn.Parameter(torch.zeros(1, dtype=kind))
    optimizer = torch.optim.SGD([weight], lr=1e-3)

    def loss():
        return 1 + 1e-3 * weight.sum() + 1e-3 * weight.square().sum()

    with DescentMonitor(optimizer, every=1, loss=loss) as monitor:
        for _ in range(6):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    unit = torch.finfo(kind).eps / 2
    assert len(monitor.measurements) == 6
    for one in monitor.measurements:
        assert one.rounding == pytest.approx(2 * unit, rel=1e-3)
    assert monitor.improved == (1.0 if kind == torch.float64 else 0.0)


def test_after_closing_nothing_is_measured():
    model = quadratic(VALUES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = train(model, optimizer, 2)
    model(ROWS[0]).backward()
    optimizer.step()
    assert len(monitor.measurements) == 2
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def sgd(**options):
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1, **options)


BAD = {
    "every 0": (lambda path: DescentMonitor(sgd(), every=0), "every: got 0"),
    "every half": (lambda path: DescentMonitor(sgd(), every=0.5), "every: got 0.5"),
    "no optimiser": (lambda path: DescentMonitor(nn.ReLU()), "optimizer: got ReLU"),
    "maximize": (lambda path: DescentMonitor(sgd(maximize=True)), "optimizer: got maximize"),
    "LBFGS": (
        lambda path: DescentMonitor(torch.optim.LBFGS([nn.Parameter(torch.ones(1))])),
        "loss: got none, with LBFGS",
    ),
    "out": (lambda path: DescentMonitor(sgd(), out=path), "(Is a directory)"),
}


@pytest.mark.parametrize(("build", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_reason(tmp_path, build, said):
    with pytest.raises(InvalidInput) as refusal:
        build(tmp_path)
    assert said in str(refusal.value)


@pytest.mark.parametrize("value", [0.5, torch.ones(3, requires_grad=True), torch.ones(())])
def test_a_loss_that_is_not_one_number_is_refused_at_the_first_step(value):
    optimizer = sgd()
    with DescentMonitor(optimizer, loss=lambda: value), pytest.raises(InvalidInput, match="loss: "):
        optimizer.step()


FILES = {
    "missing": (None, "No such file"),
    "empty": ("", "which is empty"),
    "words": ("hello\n", "Expecting value"),
    "other": ('{"step": 1}\n', "missing or unknown entries"),
    "list": ("[1]\n", "line 1: the document is 'list', wanted the fields"),
}


@pytest.mark.parametrize(("text", "said"), FILES.values(), ids=FILES)
def test_other_files_are_refused(tmp_path, text, said):
    path = tmp_path / "run.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidInput, match="training: got") as refusal:
        read_measurements(path)
    assert said in str(refusal.value)


@pytest.mark.parametrize("value", ['"x"', "NaN", "1e999", "true", "[1]"])
def test_a_line_with_a_value_of_another_kind_is_refused(tmp_path, value):
    model, path = quadratic(VALUES), tmp_path / "run.jsonl"
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, out=path)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"loss": 0}).replace('"loss": 0', f'"loss": {value}'))
    with pytest.raises(InvalidInput, match=r"training: got .*run.jsonl' \(line 1: (loss|NaN) is"):
        read_measurements(path)


def test_training_stays_silent_without_reason():
    model = quadratic(VALUES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, torch.optim.AdamW(model.parameters(), lr=0.001), 9)
