"""The checker proves what Holdfast certifies, by itself."""

import ast
import itertools
import json
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from flint import arb, ctx
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.check.zoo import NORMS, ZOO, example, graph, numbers, written
from tests.nets import crossed
from tests.traps.truth import Function
from torch import nn

import holdfast
import holdfast_check
from holdfast.certificates.proofs.lowering import lower
from holdfast.certificates.proofs.proof import as_array
from holdfast.sources.demo import demo_data, demo_model
from holdfast_check.network import _SCALAR, logits, normal_form, read_graph

SOME = ("linear", "relu", "group sort", "conv")
PACKAGE = Path(holdfast_check.__file__).parent


def test_it_is_short_and_stands_alone():
    files = sorted(PACKAGE.glob("*.py"))
    lines = [line for path in files for line in path.read_text().splitlines()]
    assert sum(bool(line.strip()) for line in lines) < 550
    allowed = {*sys.stdlib_module_names, "flint", "holdfast_check"}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed
            elif isinstance(node, ast.ImportFrom):
                assert str(node.module).split(".")[0] in allowed


def steps_of(name: str, inputs: torch.Tensor) -> list:
    lowered, arrays, _ = lower(graph(name))
    ops = [op | {"slope": float.fromhex(op["slope"])} for op in lowered]
    tensors = {name: as_array(tensor) for name, tensor in arrays.items()}
    with ctx.workprec(128):
        return read_graph(ops, inputs[0].numel(), tensors)


@pytest.mark.parametrize(
    # Every operation by itself is held against the checker in `test_lowering`.
    "name",
    [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in ZOO],
)
def test_the_lowered_network_is_the_network(name: str) -> None:
    """Logits in balls against torch, and differences through the form against torch."""
    model, inputs, _ = example(name)
    steps, double = steps_of(name, inputs), model.double()
    rows = [as_array(row).numbers() for row in inputs]
    balls = np.array([[float(z.mid()) for z in row] for row in logits(steps, rows)])
    expected = double(inputs.double()).detach().numpy()
    assert np.allclose(balls, expected, rtol=1e-12, atol=1e-13)
    form = normal_form(steps, 0, len(steps) - 1)
    wide = form.inputs + len(form.units)
    B, C = dense(form.units, wide), dense(form.outputs, wide)
    # With all t_i free in [0, 1] some choice gives the difference of any two rows; here it is read
    # off from the pre-activations, one unit after the other.
    ends = [pre_activations(steps, row) for row in rows[:2]]
    xi = np.zeros(wide)
    xi[: form.inputs] = (inputs[1].double() - inputs[0].double()).flatten().numpy()
    kept = 0
    for low, high, z0, z1, moved in zip(*gather(steps, ends), strict=True):
        if kept < len(form.units):
            gap = float(z1 - z0)
            own = float(B[kept] @ xi)
            if abs(gap - own) <= 1e-9 * max(1.0, abs(gap)):
                unit = (float(moved) - low * gap) / (high - low)
                assert -1e-9 <= unit * np.sign(gap) <= abs(gap) + 1e-9
                xi[form.inputs + kept] = unit
                kept += 1
    assert kept == len(form.units)
    assert np.allclose(C @ xi, expected[1] - expected[0], rtol=1e-9, atol=1e-9)


def dense(rows: list, width: int) -> np.ndarray:
    result = np.zeros((len(rows), width))
    for i, row in enumerate(rows):
        for j, a in row.items():
            result[i, j] = float(arb(a))
    return result


def pre_activations(steps: list, row: list) -> list:
    """Return for every scalar step what goes in and what comes out."""
    found = []
    for k, step in enumerate(steps):
        if step.scalar:
            (inside,) = logits(steps[: step.of[0] + 1], [row]) if step.of[0] else [row]
            (outside,) = logits(steps[: k + 1], [row])
            found.append((inside, outside))
    return found


def gather(steps: list, ends: list) -> tuple:
    """Return slopes, pre-activations of two rows and differences of activations, per unit."""
    lows, highs, first, second, moved = [], [], [], [], []
    scalars = [step for step in steps if step.scalar]
    for step, (z0, v0), (z1, v1) in zip(scalars, *ends, strict=True):
        size = len(v0)
        lows += [float(Fraction(int(step.scalar[0].p), int(step.scalar[0].q)))] * size
        highs += [float(Fraction(int(step.scalar[1].p), int(step.scalar[1].q)))] * size
        first += [float(z.mid()) for z in z0]
        second += [float(z.mid()) for z in z1]
        moved += [float((b - a).mid()) for a, b in zip(v0, v1, strict=True)]
    return lows, highs, first, second, moved


USUAL = [(name, 2.0) for name in ZOO] + crossed(SOME, (1.0, math.inf))


@pytest.mark.parametrize(("name", "norm"), USUAL)
def test_every_certificate_is_proved(tmp_path, name: str, norm: float) -> None:
    path = written(tmp_path, name, norm)
    report = holdfast_check.check(path)
    rows = json.loads(path.read_text())["rows"]
    radius, claimed = numbers(rows["radius"]), numbers(rows["claimed"])
    assert report.proved == sum(entry > 0 for entry in claimed) > 0
    # For l1 the file holds the l2 proof, which is at times a little looser.
    least = 0.9 if norm == 1.0 else 0.999
    assert all(a >= least * b for a, b in zip(radius, claimed, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("norm", [1.0, math.inf])
@pytest.mark.parametrize("name", [name for name in ZOO if name not in SOME])
def test_every_certificate_is_proved_in_every_norm(tmp_path, name: str, norm: float) -> None:
    if (name, norm) == ("max pool", math.inf):
        # A maximum keeps linf, which no multiplier says: the file proves less, and says so.
        report = holdfast_check.check(written(tmp_path, name, norm))
        assert report.proved == report.claimed == 4
        return
    test_every_certificate_is_proved(tmp_path, name, norm)


@pytest.mark.parametrize("name", ["relu", "tanh", "conv", "batch norm"])
def test_large_networks_are_split(tmp_path, name: str, monkeypatch) -> None:
    """The parts multiply: looser than the whole, and still proved."""
    import holdfast.certificates.proofs.witness as room

    whole = written(tmp_path, name)
    before = numbers(json.loads(whole.read_text())["rows"]["radius"])
    monkeypatch.setattr(room, "MOST_PAIRS_WORK", 0.0)
    for most_units in (1200, 3):
        monkeypatch.setattr(room, "MOST_UNITS", most_units)
        path = written(tmp_path, name)
        document = json.loads(path.read_text())
        assert document["proof"]["cuts"]
        assert holdfast_check.check(str(path)).proved == 4
        after = numbers(document["rows"]["radius"])
        assert all(0 < a <= b * 1.001 for a, b in zip(after, before, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["digits-bounded", "digits-plain"])
def test_the_demo_is_proved(tmp_path, name: str, norm: float) -> None:
    inputs, labels = demo_data()
    certificates = holdfast.certify(demo_model(name), inputs[::40], labels[::40], norm, "global")
    certificates.save(tmp_path / "demo.json")
    report = holdfast_check.check(tmp_path / "demo.json")
    assert (report.proved, report.claimed) == (int((certificates.radius > 0).sum()), 0)


def roots(values: list[float], eps: float) -> list[tuple[Fraction, Fraction]]:
    """Enclose 1 / sqrt(value + eps) between rational numbers 2^-200 apart, relatively."""
    found = []
    for value in values:
        square = 1 / (Fraction(value) + Fraction(eps))
        shift = 2**400
        low = Fraction(math.isqrt(square.numerator * shift**2 // square.denominator), shift)
        found.append((low, low + Fraction(1, shift)))
    return found


@settings(max_examples=6)
@given(st.integers(0, 2**31), st.sampled_from(NORMS), st.booleans())
def test_a_proved_radius_is_below_the_exact_distance(tmp_path_factory, seed, norm, normed) -> None:
    """The distance to the boundary of a linear net is known in rationals.

    With batch norms it is a function of the roots in them. Margin and rate are least and largest
    where every root is at an end of its enclosure: they are affine, and convex, in each of them.
    """
    torch.manual_seed(seed)
    norms = [nn.BatchNorm1d(2), nn.BatchNorm1d(2)]
    for layer in norms:
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.0, 2.0)
        nn.init.normal_(layer.weight)
    linear = nn.Linear(2, 2)
    model = nn.Sequential(norms[0], linear, norms[1]).eval() if normed else linear.eval()
    x = torch.randn(6, 2)
    path = tmp_path_factory.mktemp("linear") / "c.json"
    holdfast.certify(model, x, model(x).argmax(1), norm=norm).save(path)
    rows = json.loads(path.read_text())["rows"]
    scales = [roots(layer.running_var.tolist(), layer.eps) for layer in norms]
    ends = list(itertools.product(*scales[0], *scales[1])) if normed else [None]
    forms = [_difference(linear, norms, end) for end in ends]
    squares = [
        {1.0: max(map(abs, w)) ** 2, 2.0: sum(a * a for a in w), math.inf: sum(map(abs, w)) ** 2}
        for w, _ in forms
    ]
    square = max(each[norm] for each in squares)
    for point, proved, y in zip(x.tolist(), rows["radius"], rows["labels"], strict=True):
        radius = Fraction(*float.fromhex(proved).as_integer_ratio())
        gaps = [sum(a * Fraction(v) for a, v in zip(w, point, strict=True)) + b for w, b in forms]
        gap = min(gaps) if y == 0 else -max(gaps)
        assert radius**2 * square <= gap**2 and gap > 0
        # Through batch norms the certified radius, which the proved one never exceeds, is looser.
        assert radius**2 * square > gap**2 * (1 - Fraction(1, 10**2 if normed else 10**7))


def _difference(linear: nn.Linear, norms: list, ends: tuple | None) -> tuple[list, Fraction]:
    """Return weights and offset of the first output minus the second, for roots of batch norms."""
    weight, bias = [fractions(row) for row in linear.weight], fractions(linear.bias)
    if ends is not None:
        gains, means = zip(
            *((fractions(n.weight), fractions(n.running_mean)) for n in norms), strict=True
        )
        before, after = (
            [gains[0][j] * ends[j] for j in (0, 1)],
            [gains[1][i] * ends[2 + i] for i in (0, 1)],
        )
        weight = [[weight[i][j] * before[j] for j in (0, 1)] for i in (0, 1)]
        bias = [
            bias[i] - sum(weight[i][j] * means[0][j] for j in (0, 1)) - means[1][i] for i in (0, 1)
        ]
        weight, bias = (
            [[after[i] * a for a in weight[i]] for i in (0, 1)],
            [after[i] * bias[i] for i in (0, 1)],
        )
    return [a - b for a, b in zip(*weight, strict=True)], bias[0] - bias[1]


def fractions(tensor: torch.Tensor) -> list[Fraction]:
    return [Fraction(entry) for entry in tensor.tolist()]


@pytest.mark.parametrize("name", _SCALAR)
def test_slopes_are_those_of_the_function(name: str) -> None:
    """No quotient of differences lies outside the slopes, and some come close to both."""
    with ctx.workprec(200):
        low, high, function = _SCALAR[name]
        points = [arb(k) / 64 for k in range(-1000, 1000)] + [arb(-(10**4)), arb(10**4)]
        step = arb(2) ** -30
        slopes = [(function(x + step) - function(x)) / step for x in points]
    assert not any(slope < low or slope > high for slope in slopes)
    assert min(slopes) < arb(low) + 0.01 and max(slopes) > arb(high) - 0.01


def test_what_cannot_be_proved_is_said(tmp_path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.randn(3, 4)
    holdfast.certify(model, x, model(x).argmax(1)).save(tmp_path / "c.json")
    report = holdfast_check.check(tmp_path / "c.json")
    assert (report.proved, report.claimed) == (0, 3)
    assert report.lines[-1] == "nothing is proved" and "layer_norm" in report.lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.json"]


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_a_softmax_at_the_end_changes_no_order(tmp_path, end) -> None:
    model, x, y = example("relu")
    holdfast.certify(model, x, y, method="global").save(tmp_path / "c.json")
    whole = nn.Sequential(model, end).eval()
    holdfast.certify(whole, x, y, method="global").save(tmp_path / "d.json")
    assert holdfast_check.check(tmp_path / "d.json").proved == 4
    documents = [json.loads((tmp_path / name).read_text()) for name in ("c.json", "d.json")]
    logits, ended = (document["rows"] for document in documents)
    assert [len(document["proof"]["graph"]) for document in documents] == [5, 5]
    proved = zip(numbers(ended["radius"]), numbers(logits["radius"]), strict=True)
    assert all(0 < a <= b * (1 + 1e-6) for a, b in proved)
    inside = nn.Sequential(model, end, nn.Linear(3, 3)).eval()
    holdfast.certify(inside, x, inside(x).argmax(1), method="global").save(tmp_path / "e.json")
    assert holdfast_check.check(tmp_path / "e.json").proved == 0


def test_rows_without_a_radius_are_left_alone(tmp_path) -> None:
    model, x, y = example("relu")
    x[1, 0] = math.nan
    y[2] = (y[2] + 1) % 3
    holdfast.certify(model, x, y, method="global").save(tmp_path / "c.json")
    report = holdfast_check.check(tmp_path / "c.json")
    assert (report.rows, report.proved, report.claimed) == (4, 2, 0)


def test_weights_are_compared_with_a_model_file(tmp_path) -> None:
    model, x, y = example("relu")
    holdfast.certify(model, x, y).save(tmp_path / "c.json")
    save_file(model.state_dict(), tmp_path / "same.safetensors")
    model[0].weight.data[0, 0] += 1e-6
    save_file(model.state_dict(), tmp_path / "other.safetensors")
    holdfast_check.check(tmp_path / "c.json", tmp_path / "same.safetensors")
    with pytest.raises(holdfast_check.Rejected, match=r"does not hold: \['0.weight'\]"):
        holdfast_check.check(tmp_path / "c.json", tmp_path / "other.safetensors")


def test_it_runs_alone(tmp_path) -> None:
    path = written(tmp_path, "relu")
    command = [sys.executable, "-m", "holdfast_check", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "proved: 4 of 4" in done.stdout
    path.write_text(path.read_text().replace("certified", "misclassified"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("rejected: ")
    assert done.stderr.count("\n") == 1


def test_files_whose_names_differ_have_proofs_of_their_own(tmp_path) -> None:
    model, x, y = example("linear")
    certificates = holdfast.certify(model, x, y, method="global")
    paths = [tmp_path / name for name in ("net.v1", "net.v2", "net.json", "net")]
    for path in paths:
        certificates.save(path)
    assert all(holdfast_check.check(path).proved for path in paths)
    assert len({json.loads(path.read_text())["proof"]["file"] for path in paths}) == 4


def test_what_a_file_cannot_prove_is_saved_without_proof(tmp_path) -> None:
    model, x, y = example("linear")
    divided = nn.Sequential(model, Function(lambda z: z / math.inf + z)).eval()
    holdfast.certify(divided, x, y, method="global").save(tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text())["proof"]["missing"]
    channels_last = nn.Sequential(nn.Conv2d(2, 1, 2), nn.Flatten(), nn.Linear(4, 2)).eval()
    rows = torch.randn(3, 2, 3, 3).to(memory_format=torch.channels_last)
    found = holdfast.certify(channels_last, rows, channels_last(rows).argmax(1), method="global")
    found.save(tmp_path / "d.json")
    assert holdfast_check.check(tmp_path / "d.json").proved == 3


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("vector_norm", lambda z: z + z.norm(dim=1, keepdim=True)),
        ("logsumexp", lambda z: z + z.logsumexp(1, keepdim=True)),
        ("rms_norm", lambda z: torch.nn.functional.rms_norm(z, z.shape[1:], eps=0.1)),
    ],
)
def test_an_operation_that_the_checker_does_not_know_is_named(tmp_path, name, function) -> None:
    model, x, _ = example("linear")
    model = nn.Sequential(model, Function(function)).eval()
    holdfast.certify(model, x, model(x).argmax(1), method="global").save(tmp_path / "c.json")
    proof = json.loads((tmp_path / "c.json").read_text())["proof"]
    assert f"{name}: the checker does not know this operation" in proof["missing"]
    assert proof["graph"] == [] and proof["cuts"] == []
    assert holdfast_check.check(tmp_path / "c.json").proved == 0
