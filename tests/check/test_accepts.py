"""The checker proves what Holdfast certifies, by itself."""

import ast
import json
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.check.zoo import NORMS, ZOO, example, graph, numbers, written
from tests.traps.truth import Function
from torch import nn

import holdfast
import holdfast_check
from holdfast.certificates.proofs.lowering import lower
from holdfast.certificates.proofs.proof import as_array
from holdfast.sources.demo import demo_data, demo_model
from holdfast_check.network import logits, normal_form, read_graph

SOME = ("linear", "relu", "group sort", "conv")
PACKAGE = Path(holdfast_check.__file__).parent


def test_it_is_short_and_stands_alone():
    files = sorted(PACKAGE.glob("*.py"))
    assert sum(len(path.read_text().splitlines()) for path in files) < 500
    allowed = {*sys.stdlib_module_names, "flint", "holdfast_check"}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed
            elif isinstance(node, ast.ImportFrom):
                assert str(node.module).split(".")[0] in allowed


def steps_of(name: str, inputs: torch.Tensor) -> list:
    lowered, arrays = lower(graph(name))
    ops = [op | {"slope": float.fromhex(op["slope"])} for op in lowered]
    tensors = {name: as_array(tensor) for name, tensor in arrays.items()}
    return read_graph(ops, inputs[0].numel(), tensors)


@pytest.mark.parametrize("name", ZOO)
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
            result[i, j] = float(Fraction(int(a.p), int(a.q)))
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


USUAL = [(name, 2.0) for name in ZOO] + [(name, norm) for name in SOME for norm in (1.0, math.inf)]


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


@pytest.mark.parametrize("name", ["relu", "tanh", "conv"])
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


@settings(max_examples=6)
@given(st.integers(0, 2**31), st.sampled_from(NORMS))
def test_a_proved_radius_is_below_the_exact_distance(tmp_path_factory, seed: int, norm) -> None:
    """The distance to the boundary of a linear net is known in rationals."""
    torch.manual_seed(seed)
    model = nn.Linear(3, 2).eval()
    x = torch.randn(8, 3)
    path = tmp_path_factory.mktemp("linear") / "c.json"
    holdfast.certify(model, x, model(x).argmax(1), norm=norm).save(path)
    rows = json.loads(path.read_text())["rows"]
    w = [Fraction(a) - Fraction(b) for a, b in zip(*model.weight.tolist(), strict=True)]
    offsets = model.bias.tolist()
    square = {
        1.0: max(map(abs, w)) ** 2,
        2.0: sum(a * a for a in w),
        math.inf: sum(map(abs, w)) ** 2,
    }
    for point, proved, y in zip(x.tolist(), rows["radius"], rows["labels"], strict=True):
        radius = Fraction(*float.fromhex(proved).as_integer_ratio())
        gap = sum(a * Fraction(v) for a, v in zip(w, point, strict=True))
        gap += Fraction(offsets[0]) - Fraction(offsets[1])
        gap = gap if y == 0 else -gap
        assert radius**2 * square[norm] <= gap**2 and gap > 0
        assert radius**2 * square[norm] > gap**2 * (1 - Fraction(1, 10**7))


def test_what_cannot_be_proved_is_said(tmp_path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.randn(3, 4)
    holdfast.certify(model, x, model(x).argmax(1)).save(tmp_path / "c.json")
    report = holdfast_check.check(tmp_path / "c.json")
    assert (report.proved, report.claimed) == (0, 3)
    assert report.lines[-1] == "nothing is proved" and "batch_norm" in report.lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.json"]


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
        ("sin", torch.sin),
        ("cos", torch.cos),
        ("erf", torch.erf),
        ("softsign", torch.nn.functional.softsign),
        ("softshrink", torch.nn.functional.softshrink),
        ("tanhshrink", torch.nn.functional.tanhshrink),
        ("log1p_relu", lambda z: z.relu().log1p()),
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
