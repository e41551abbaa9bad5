"""What may move, and in which units: every verb measures ||(x' - x) / scale|| over what is free."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.nets import crossed
from torch import nn

import holdfast
from holdfast import cli
from holdfast.errors import InvalidInput
from holdfast.moves import EVERYTHING, Moves

NORMS = (1.0, 2.0, math.inf)
MASK = [True, False, True, True]
UNITS = [1.0, 10.0, 0.25, 3.0]
KINDS = {
    "free": {"free": [0, 2, 3]},
    "scale": {"scale": UNITS},
    "both": {"free": torch.tensor(MASK), "scale": torch.tensor(UNITS)},
}


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)
    return nn.Sequential(*layers).eval()


def rows(count: int = 8) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("norm", "kind", "method"), crossed(NORMS, tuple(KINDS), ("local", "global"))
)
def test_nothing_flips_inside_a_radius(norm: float, kind: str, method: str) -> None:
    model, x = net(), rows()
    labels = model(x).argmax(1)
    certificates = holdfast.certify(model, x, labels, norm, method, **KINDS[kind])
    attacks = holdfast.attack(model, x, labels, norm, **KINDS[kind])
    assert bool((certificates.radius > 0).all())
    assert bool((certificates.radius <= attacks.distance).all())
    # Attacks come within a factor of what is proved on balls, so that both are about one distance.
    if method == "local":
        assert bool((certificates.radius >= 0.2 * attacks.distance).all())
    moved = attacks.adversarial != x
    if kind != "scale":
        assert not bool(moved[:, 1].any())


@given(st.integers(0, 2**31), st.sampled_from(NORMS), st.booleans(), st.booleans())
@settings(max_examples=10)
def test_the_radius_of_a_linear_net_is_the_distance(
    seed: int, norm: float, masked: bool, scaled: bool
) -> None:
    """The distance in units to the boundary of a linear net is known in rationals."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(4, 2).eval()
    model.weight.data = torch.randn(2, 4, generator=generator)
    model.bias.data = torch.randn(2, generator=generator)
    x = torch.randn(3, 4, generator=generator)
    labels = model(x).argmax(1)
    how = {"free": MASK if masked else None, "scale": UNITS if scaled else None}
    found = holdfast.certify(model, x, labels, norm, **how)
    w = [Fraction(a) - Fraction(b) for a, b in zip(*model.weight.tolist(), strict=True)]
    offset = Fraction(model.bias.tolist()[0]) - Fraction(model.bias.tolist()[1])
    units = [
        Fraction(u if scaled else 1) * (m or not masked) for u, m in zip(UNITS, MASK, strict=True)
    ]
    reach = [abs(a) * u for a, u in zip(w, units, strict=True)]
    square = {1.0: max(reach) ** 2, 2.0: sum(a * a for a in reach), math.inf: sum(reach) ** 2}
    for point, radius in zip(x.tolist(), found.radius.tolist(), strict=True):
        margin = sum((a * Fraction(v) for a, v in zip(w, point, strict=True)), offset)
        assert Fraction(radius) ** 2 * square[norm] <= margin**2
        assert Fraction(radius * 1.002 + 1e-12) ** 2 * square[norm] >= margin**2


@pytest.mark.parametrize(
    "norm", [2.0, *(pytest.param(p, marks=pytest.mark.slow) for p in (1.0, math.inf))]
)
def test_units_are_those_of_a_layer_in_front(norm: float) -> None:
    """Powers of two divide exactly: a net in front of which inputs are scaled is the same claim."""
    model, x = net(), rows()
    labels, units = model(x).argmax(1), torch.tensor([1.0, 8.0, 0.25, 2.0])

    class InUnits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, u: torch.Tensor) -> torch.Tensor:
            return self.model(u * units)

    plain = holdfast.certify(InUnits().eval(), x / units, labels, norm)
    scaled = holdfast.certify(model, x, labels, norm, scale=units)
    assert torch.allclose(plain.radius, scaled.radius, rtol=2e-3, atol=0.0)
    brackets = (
        holdfast.lipschitz(InUnits().eval(), x / units, norm, seconds=0.5),
        holdfast.lipschitz(model, x, norm, seconds=0.5, scale=units),
    )
    assert brackets[0].lower <= brackets[1].upper and brackets[1].lower <= brackets[0].upper


@pytest.mark.parametrize(("norm", "kind"), crossed(NORMS, tuple(KINDS)))
def test_no_slope_is_steeper_whatever_is_kept(norm: float, kind: str) -> None:
    model, x = net().double(), rows().double()
    bracket = holdfast.lipschitz(model, x, norm, seconds=0.5, **KINDS[kind])
    units = Moves(**KINDS[kind]).units((4,))
    assert units is not None
    a = 3 * torch.randn(2000, 4, dtype=torch.float64)
    step = torch.randn(2000, 4, dtype=torch.float64) * torch.rand(2000, 1).double()
    with torch.no_grad():
        change = torch.linalg.vector_norm(model(a + units * step) - model(a), norm, dim=1)
    step = torch.where(units > 0, step, 0.0)
    slopes = change / torch.linalg.vector_norm(step, norm, dim=1)
    # The bracket is about exact numbers; sampled slopes carry the rounding of two passes.
    assert float(slopes.max()) <= bracket.upper * (1 + 1e-9)
    assert bracket.lower <= bracket.upper


def test_a_region_holds_what_is_kept_at_its_centre() -> None:
    """Of relu(x0 + x1) + relu(x0 - x1) one unit is on where |x1| is large, and both may else."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    model[2].weight.data = torch.tensor([[1.0, 1.0]])
    example = torch.zeros(1, 2)

    def upper(center: list[float]) -> float:
        ball = holdfast.Ball(torch.tensor(center), 0.5)
        return holdfast.lipschitz(model, example, region=ball, free=[0]).upper

    assert upper([0.0, 5.0]) == pytest.approx(1.0)
    assert upper([0.0, 0.0]) == pytest.approx(2.0)
    assert holdfast.lipschitz(model, example, free=[0]).upper == pytest.approx(2.0)


def test_bounds_of_change_are_in_units() -> None:
    model, x = net().double(), rows().double()
    labels = model(x).argmax(1)
    found = holdfast.certify(model, x, labels, math.inf, **KINDS["both"])
    moved = found.output_change(0.1)
    units = Moves(**KINDS["both"]).units((4,))
    assert units is not None
    for _ in range(200):
        step = units * 0.1 * (2 * torch.rand(len(x), 4).double() - 1)
        assert bool(((model(x + step) - model(x)).abs().amax(1) <= moved + 1e-12).all())
    assert bool((moved < holdfast.certify(model, x, labels, math.inf).output_change(1.0)).all())


@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("free", "scale")), "both"]
)
def test_float32_radii_hold_as_executed(kind: str) -> None:
    model, x = net(), rows()
    labels = model(x).argmax(1)
    real = holdfast.certify(model, x, labels, **KINDS[kind])
    executed = holdfast.certify(model, x, labels, semantics="float32", **KINDS[kind])
    assert bool((executed.radius <= real.radius).all())
    assert bool((executed.radius > 0.9 * real.radius).all())


def test_neighbours_agree_in_what_is_kept() -> None:
    model, labels = nn.Linear(2, 2, bias=False).eval(), torch.tensor([0, 1])
    model.weight.data = torch.eye(2)
    apart = torch.tensor([[3.0, 1.0], [1.0, 3.0]])
    assert holdfast.conditions(model, apart, labels).resolution == pytest.approx(2**0.5)
    assert holdfast.conditions(model, apart, labels, scale=[2.0, 2.0]).resolution == (
        pytest.approx(2**-0.5)
    )
    alike = torch.tensor([[3.0, 1.0], [-1.0, 1.0]])
    found = holdfast.conditions(model, alike, labels, free=[0])
    assert found.resolution == pytest.approx(2.0)
    kept = holdfast.conditions(model, apart, labels, free=[0])
    assert kept.resolution == kept.quantisation  # no row has a neighbour that it can reach


def test_uneven_columns_are_told() -> None:
    model, x = net(), rows() * torch.tensor([1.0, 1.0, 1000.0, 1.0])
    labels = model(x).argmax(1)

    def advice(net: nn.Module, inputs: torch.Tensor, **how: object) -> str:
        return holdfast.conditions(net, inputs, labels, seconds=0.0, **how).advice

    assert "give each its unit" in advice(model, x)
    for how in ({"free": [0, 1, 3]}, {"scale": [1.0, 1.0, 1000.0, 1.0]}):
        assert "its unit" not in advice(model, x, **how)
    assert "its unit" not in advice(nn.Sequential(nn.Flatten(), model), x.reshape(-1, 1, 2, 2))


def test_a_file_says_that_it_proves_nothing_about_units(tmp_path) -> None:
    model, x = net(), rows()
    found = holdfast.certify(model, x, model(x).argmax(1), scale=UNITS)
    assert "distances are ||(x' - x) / scale||" in found.guarantee
    found.save(tmp_path / "c.json")
    document = json.loads((tmp_path / "c.json").read_text())
    assert "plain distances alone" in document["proof"]["missing"]
    again = holdfast.Certificates.load(tmp_path / "c.json", claimed=True)
    assert torch.equal(again.units, torch.tensor(UNITS).double())


def test_certificates_and_attacks_in_other_units_are_not_compared() -> None:
    from holdfast.attacks.agreement import check_agreement
    from holdfast.graph.capture import capture

    model, x = net(), rows()
    labels = model(x).argmax(1)
    attacks = holdfast.attack(model, x, labels)
    certificates = holdfast.certify(model, x, labels, scale=UNITS)
    with pytest.raises(InvalidInput, match="other units"):
        check_agreement(capture(model, x[:1]), certificates, attacks)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"free": []}, "free"),
        ({"free": [False] * 4}, "nothing that may move"),
        ({"free": [0, 0]}, "each once"),
        ({"free": [4]}, "from 0 to 3"),
        ({"free": [0.5]}, "free"),
        ({"free": [True, False]}, "that of a row"),
        ({"scale": [1.0, 0.0, 1.0, 1.0]}, "from 1e-30 to 1e30"),
        ({"scale": [1.0, math.nan, 1.0, 1.0]}, "from 1e-30 to 1e30"),
        ({"scale": [1.0, 2.0, 3.0]}, "that of a row"),
        ({"scale": "auto"}, "scale"),
    ],
)
def test_what_cannot_be_meant_is_refused(asked: dict, said: str) -> None:
    model, x = net(), rows()
    with pytest.raises(InvalidInput, match=said):
        holdfast.certify(model, x, model(x).argmax(1), **asked)


def test_every_verb_refuses_alike() -> None:
    model, x = net(), rows()
    for verb in (holdfast.attack, holdfast.conditions):
        with pytest.raises(InvalidInput, match="that of a row"):
            verb(model, x, model(x).argmax(1), scale=[1.0, 2.0])
    with pytest.raises(InvalidInput, match="that of a row"):
        holdfast.lipschitz(model, x, scale=[1.0, 2.0])


def test_a_box_has_no_units() -> None:
    box = holdfast.Box(torch.zeros(4), torch.ones(4))
    with pytest.raises(InvalidInput, match="Ball in these units"):
        holdfast.lipschitz(net(), rows(), region=box, scale=UNITS)


def test_nothing_said_is_everything() -> None:
    assert EVERYTHING.units((4,)) is None and EVERYTHING.meaning == ""
    assert Moves([0, 1, 2, 3], [1.0, 1.0, 1.0, 1.0]).units((4,)) is None


def table(folder) -> tuple[str, str, nn.Module, torch.Tensor, torch.Tensor]:
    """Write rows with named columns, and name a model of them."""
    model, x = net(), rows()
    labels = model(x).argmax(1)
    lines = [
        ",".join(map(str, [*row, y])) for row, y in zip(x.tolist(), labels.tolist(), strict=True)
    ]
    head = "age,dollars,years,rooms,label\n"
    (folder / "rows.csv").write_text(head + "\n".join(lines) + "\n")
    return "module:tests.test_moves:net", f"csv:{folder / 'rows.csv'}", model, x, labels


def run(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        cli.main(words)
    assert ending.value.code == 0


@pytest.mark.parametrize(
    ("free", "scale"),
    [("0,2-3", "1,10,0.25,3"), ("age, years,rooms", "units.npy"), ("2,0,3,0", "units.npy")],
)
def test_the_command_line_takes_names_and_numbers(
    free: str, scale: str, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    name, data, model, x, labels = table(tmp_path)
    np.save("units.npy", np.array(UNITS))
    expected = holdfast.certify(model, x, labels, free=MASK, scale=UNITS).radius
    run(["certify", name, data, "--free", free, "--scale", scale, "--json", "--attack"])
    found = json.loads(capsys.readouterr().out)
    assert found["radius"] == pytest.approx(expected.tolist())
    assert found["units"] == [1.0, 0.0, 0.25, 3.0]


def test_every_verb_takes_them_on_the_command_line(tmp_path, capsys) -> None:
    name, data, _, x, _ = table(tmp_path)
    asked = [name, data, "--free", "age,years", "--scale", "auto"]
    run(["attack", *asked, "--json"])
    units = json.loads(capsys.readouterr().out)["units"]
    spread = x.double().std(0, correction=0).tolist()
    assert units == pytest.approx([spread[0], 0.0, spread[2], 0.0])
    run(["conditions", *asked])
    run(["lipschitz", *asked, "--seconds", "0.2"])
    run(["audit", *asked, "--seconds", "0.2", "--out", str(tmp_path / "a")])
    command = json.loads((tmp_path / "a" / "audit.json").read_text())["command"]
    assert "--free age,years --scale auto" in command


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--free", "height"], "age, dollars, years, rooms"),
        (["--free", "7"], "from 0 to 3"),
        (["--scale", "1,2"], "4 of them"),
        (["--scale", "units.npy"], "4 of them"),
        (["--scale", "1,-2,3,4"], "from 1e-30 to 1e30"),
    ],
)
def test_the_command_line_says_what_it_takes(asked: list[str], said: str, tmp_path, capsys) -> None:
    name, data, *_ = table(tmp_path)
    with pytest.raises(SystemExit) as ending:
        cli.main(["certify", name, data, *asked])
    error = capsys.readouterr().err
    assert ending.value.code == 2 and said in error and error.count("\n") == 1
