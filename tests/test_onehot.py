"""One-hot groups: a moved row has other categories or the same, and nothing between them."""

import functools
import itertools
import json
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import holdfast
from holdfast import cli
from holdfast.attacks.agreement import check_agreement
from holdfast.attacks.attack import AttackOptions, attack_graph
from holdfast.attacks.result import Attacks
from holdfast.certificates.certificate import Certificates
from holdfast.certificates.certify import certify_graph
from holdfast.certificates.options import CertifyOptions
from holdfast.corners import nearest_first, placed
from holdfast.errors import InvalidInput, Unsupported
from holdfast.graph.capture import capture
from holdfast.graph.ir import Graph
from holdfast.moves import Moves
from holdfast.rounding import down

NORMS = (1.0, 2.0, math.inf)
GROUPS = ((1, 2, 3), (5, 6), (8, 7, 9))
NUMERIC = (0, 4)
CATEGORIES = [entry for group in GROUPS for entry in group]
SCALE = [0.7, 1.0, 2.0, 0.3, 5.0, 1.5, 1.0, 0.25, 3.0, 1.0]


def net() -> nn.Module:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    model[0].weight.data[:, NUMERIC] *= 0.3  # so that other categories are as near
    return model


def linear() -> nn.Module:
    torch.manual_seed(4)
    return nn.Linear(10, 2).eval()


@functools.cache
def captured(make) -> tuple[nn.Module, Graph]:
    model = make()
    return model, capture(model, rows(1))


def rows(count: int = 6, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 10, generator=generator)
    for group in GROUPS:
        chosen = torch.randint(len(group), (count,), generator=generator)
        x[:, list(group)] = torch.eye(len(group))[chosen]
    return x


def certified(make, x: Tensor, norm: float, moves: Moves, **how: str) -> Certificates:
    model, graph = captured(make)
    return certify_graph(graph, x, model(x).argmax(1), CertifyOptions(norm, moves=moves, **how))


def attacked(make, x: Tensor, norm: float, moves: Moves, epsilon: float | None = None) -> Attacks:
    model, graph = captured(make)
    asked = AttackOptions(norm, epsilon, moves=moves)
    return attack_graph(graph, model, (x, model(x).argmax(1)), asked)


def powers(row: Tensor, other: Tensor, norm: float, scale: list[float]) -> Fraction:
    """Return the exact distance between rows in l1 and linf, and its square in l2."""
    steps = [
        abs(Fraction(a) - Fraction(b)) / Fraction(unit)
        for a, b, unit in zip(row.tolist(), other.tolist(), scale, strict=True)
    ]
    return max(steps) if math.isinf(norm) else sum((s ** int(norm) for s in steps), Fraction(0))


def power(radius: float, norm: float) -> Fraction:
    return Fraction(radius) ** (2 if norm == 2.0 else 1)


def corners(row: Tensor) -> list[Tensor]:
    """Return a row with all combinations of categories, its own among them."""
    found = []
    for chosen in itertools.product(*GROUPS):
        other = row.clone()
        other[CATEGORIES] = 0.0
        other[list(chosen)] = 1.0
        found.append(other)
    return found


def exact_class(model: nn.Module, row: Tensor) -> int:
    """Return the class of a row in rationals; -1 for a tie."""
    values = [Fraction(v) for v in row.tolist()]
    for layer in model:
        if isinstance(layer, nn.ReLU):
            values = [max(v, Fraction(0)) for v in values]
            continue
        weight, bias = layer.weight.tolist(), layer.bias.tolist()
        values = [
            sum((Fraction(a) * v for a, v in zip(line, values, strict=True)), Fraction(b))
            for line, b in zip(weight, bias, strict=True)
        ]
    best = [k for k, value in enumerate(values) if value == max(values)]
    return best[0] if len(best) == 1 else -1


@given(st.integers(0, 2**31), st.sampled_from(NORMS), st.booleans())
@settings(max_examples=15)
def test_corners_come_nearest_first_and_each_once(seed: int, norm: float, scaled: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    scale = [1.0] * 10
    if scaled:
        scale = (4.0 * torch.rand(10, generator=generator).double() + 0.01).tolist()
    (row,) = rows(1, seed)
    found = list(nearest_first(row, GROUPS, torch.tensor(scale), norm))
    below = [corner.below for corner in found]
    assert below == sorted(below)
    there = placed(row.expand(len(found), -1), found)
    assert {tuple(other.tolist()) for other in there} | {tuple(row.tolist())} == {
        tuple(other.tolist()) for other in corners(row)
    }
    assert len(found) == 17
    for least, other in zip(below, there, strict=True):
        exact = powers(row, other, norm, torch.tensor(scale).double().tolist())
        assert power(least, norm) < exact <= power(least * (1 + 1e-14), norm)
        if not scaled and norm != 2.0:
            assert Fraction(math.nextafter(least, math.inf)) == exact


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [None, SCALE], ids=["plain", "scaled"])
def test_categories_alone_are_exact(norm: float, scale: list[float] | None) -> None:
    """Just below the distance of the nearest corner with another class, by enumeration."""
    moves = Moves(CATEGORIES, scale, GROUPS)
    x, model = rows(8), captured(net)[0]
    found, attacks = (verb(net, x, norm, moves) for verb in (certified, attacked))
    lengths = set()
    for k, row in enumerate(x):
        flips = [
            powers(row, other, norm, scale or [1.0] * 10)
            for other in corners(row)
            if exact_class(model, other) != found.labels[k]
        ]
        radius, distance = (each[k].item() for each in (found.radius, attacks.distance))
        if not flips:
            assert radius == distance == math.inf
            continue
        assert power(radius, norm) < min(flips) <= power(radius * (1 + 1e-14), norm)
        assert min(flips) <= power(distance, norm) <= power(radius * (1 + 1e-13), norm)
        lengths.add(radius)
    assert found.method == ("enumeration",) * 8 and lengths
    executed = certified(net, x, norm, moves, semantics="float32")
    assert torch.equal(executed.radius, found.radius)


@pytest.mark.parametrize(
    ("norm", "method", "scale"),
    [
        (1.0, "local", SCALE),
        (2.0, "global", None),
        pytest.param(2.0, "local", SCALE, marks=pytest.mark.slow),
        (math.inf, "auto", SCALE),
    ],
)
def test_nothing_flips_inside_a_radius(norm: float, method: str, scale) -> None:
    moves = Moves([*NUMERIC, *CATEGORIES], scale, GROUPS)
    x, (model, graph) = rows()[:4], captured(net)
    found = certified(net, x, norm, moves, method=method)
    attacks = attacked(net, x, norm, moves)
    assert check_agreement(graph, found, attacks) == ()
    assert bool((found.radius > 0).all()) and bool((found.radius < attacks.distance).all())
    if method != "global":
        assert bool((found.radius > 0.3 * attacks.distance).all())
    held = attacks.adversarial[:, CATEGORIES]
    assert bool(((held == 0) | (held == 1)).all())
    generator = torch.Generator().manual_seed(0)
    units = torch.tensor(scale or [1.0] * 10, dtype=torch.float64)
    for row, radius, label in zip(x.double(), found.radius, found.labels, strict=True):
        for other in corners(row):
            jump = torch.linalg.vector_norm((other - row) / units, norm)
            step = torch.zeros(100, 10, dtype=torch.float64)
            step[:, NUMERIC] = torch.randn(100, 2, generator=generator, dtype=torch.float64)
            step = step / torch.linalg.vector_norm(step, norm, dim=1, keepdim=True)
            room = (
                radius if math.isinf(norm) else (radius**norm - jump**norm).clamp(0) ** (1 / norm)
            )
            if jump <= radius:
                there = other + room * (1 - 1e-9) * step * units
                assert bool((model.double()(there).argmax(1) == label).all())
    model.float()


@given(st.integers(0, 2**31), st.sampled_from(NORMS), st.booleans())
@settings(max_examples=10)
def test_the_radius_of_a_linear_net_is_the_distance(seed: int, norm: float, scaled: bool) -> None:
    """Within a corner the distance to the boundary is the margin over the dual norm."""
    x, (model, _) = rows(2, seed), captured(linear)
    scale = SCALE if scaled else [1.0] * 10
    found = certified(linear, x, norm, Moves(None, SCALE if scaled else None, GROUPS[:2]))
    weight, bias = (part.tolist() for part in (model.weight, model.bias))
    w = [Fraction(a) - Fraction(b) for a, b in zip(*weight, strict=True)]
    free = [0, 4, 7, 8, 9]
    reach = [abs(w[k]) * Fraction(scale[k]) for k in free]
    slope = {1.0: max(reach), 2.0: sum(a * a for a in reach), math.inf: sum(reach)}[norm]
    for row, radius, label in zip(x, found.radius.tolist(), found.labels.tolist(), strict=True):
        truth = []
        for other in corners(row):
            if not torch.equal(other[7:], row[7:]):
                continue
            margin = Fraction(bias[0]) - Fraction(bias[1])
            margin += sum(a * Fraction(v) for a, v in zip(w, other.tolist(), strict=True))
            margin = max(margin if label == 0 else -margin, Fraction(0))
            jump = powers(row, other, norm, scale)
            numeric = margin ** (2 if norm == 2.0 else 1) / slope
            truth.append(max(jump, numeric) if math.isinf(norm) else jump + numeric)
        assert power(radius, norm) <= min(truth) <= power(radius * 1.002 + 1e-9, norm)


def reference(x: Tensor, norm: float, base: Certificates) -> list[float]:
    """Return radii from every corner, without an early stop."""
    radii = []
    for row, own, label in zip(x, base.radius.tolist(), base.labels, strict=True):
        others = torch.stack(corners(row))
        _, graph = captured(net)
        moves = Moves(list(NUMERIC), SCALE)
        how = CertifyOptions(norm, moves=moves)
        kept = certify_graph(graph, others, label.expand(len(others)), how).radius
        jumps = ((others - row).double() / torch.tensor(SCALE, dtype=torch.float64)).tolist()
        lengths = [float(torch.linalg.vector_norm(torch.tensor(jump), norm)) for jump in jumps]
        each = zip(lengths, kept.tolist(), strict=True)
        pairs = [torch.linalg.vector_norm(torch.tensor(pair), norm).item() for pair in each]
        radii.append(min([own, *pairs]) if own else 0.0)
    return radii


def test_stopping_early_loses_nothing() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        x = rows().float()
        found = certified(net, x, 2.0, Moves([*NUMERIC, *CATEGORIES], SCALE, GROUPS))
        wanted = reference(x, 2.0, certified(net, x, 2.0, Moves(list(NUMERIC), SCALE)))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.radius.tolist() == pytest.approx(wanted, rel=1e-12)
    assert len({*found.method}) > 1


def test_a_limit_ends_the_radius_before_what_was_not_looked_at(monkeypatch) -> None:
    moves, x = Moves(CATEGORIES, SCALE, GROUPS), rows(8)
    before = torch.zeros(8, dtype=torch.float64)
    full = certified(net, x, 2.0, moves).radius
    for most in (0, 1, 2, 5, 9, 17):
        monkeypatch.setattr("holdfast.certificates.onehot.MOST_CORNERS", most)
        radius = certified(net, x, 2.0, moves).radius
        assert bool((radius >= before).all()) and bool((radius <= full).all())
        assert bool((radius > 0).all())
        before = radius
    assert torch.equal(before, full)
    monkeypatch.setattr("holdfast.certificates.onehot.MOST_CORNERS", 0)
    nearest = [next(nearest_first(row, GROUPS, torch.tensor(SCALE).double(), 2.0)) for row in x]
    first = certified(net, x, 2.0, moves).radius
    assert first.tolist() == [corner.below for corner in nearest]


def test_many_groups_stay_affordable() -> None:
    """Of 3^30 corners the nearest ones come without the others."""
    groups = [(3 * k, 3 * k + 1, 3 * k + 2) for k in range(30)]
    row = torch.tensor([1.0, 0.0, 0.0] * 30)
    first = list(itertools.islice(nearest_first(row, groups, torch.ones(90), 2.0), 1801))
    assert [corner.below for corner in first[:60]] == [down(math.sqrt(2.0))] * 60
    assert [corner.below for corner in first[60:1800]] == [down(2.0)] * 1740
    assert len({corner.changes for corner in first}) == 1801


def test_radii_as_executed_are_no_larger() -> None:
    moves = Moves([*NUMERIC, *CATEGORIES], SCALE, GROUPS)
    real, executed = (
        certified(net, rows(), 2.0, moves, semantics=semantics) for semantics in ("real", "float32")
    )
    assert bool((executed.radius <= real.radius).all())
    assert bool((executed.radius > 0.99 * real.radius).all())


def test_an_attack_within_a_distance_is_within_it() -> None:
    moves, x = Moves(None, None, GROUPS), rows(3)
    nearest = attacked(net, x, 2.0, moves).distance
    epsilon = 1.05 * float(nearest.median())
    found = attacked(net, x, 2.0, moves, epsilon)
    assert bool((found.distance[found.success] <= epsilon).all())
    assert bool(found.success[nearest <= epsilon / 1.05].all())


def test_bounds_of_change_hold_in_other_corners() -> None:
    model, graph = captured(net)
    x, targets = rows(4), torch.zeros(4, 3)
    found = certify_graph(graph, x, targets, CertifyOptions(1.0, moves=Moves(None, SCALE, GROUPS)))
    classes = certified(net, x, 1.0, Moves(None, SCALE, GROUPS))
    assert "stay one 1 among 0s" in found.guarantee and "stay one 1 among 0s" in classes.guarantee
    for k, row in enumerate(x):
        for other in corners(row):
            jump = float(powers(row, other, 1.0, SCALE)) * (1 + 1e-12)
            change = (model(other[None]) - model(row[None])).detach().abs().sum()
            for result in (found, classes):
                assert float(change) <= float(result.output_change(jump)[k]) + 1e-5


def test_a_file_says_that_it_proves_nothing_about_groups(tmp_path) -> None:
    found = certified(net, rows(), 2.0, Moves(CATEGORIES, None, GROUPS))
    found.save(tmp_path / "c.json")
    document = json.loads((tmp_path / "c.json").read_text())
    assert "plain distances alone" in document["proof"]["missing"]
    again = Certificates.load(tmp_path / "c.json", claimed=True)
    assert again.onehot == GROUPS and torch.equal(again.radius, found.radius)
    holdfast_check = pytest.importorskip("holdfast_check")
    assert holdfast_check.check(tmp_path / "c.json").proved == 0


def test_certificates_and_attacks_with_other_groups_are_not_compared() -> None:
    _, graph = captured(net)
    found = certified(net, rows(), 2.0, Moves(CATEGORIES, None, GROUPS))
    attacks = attacked(net, rows(), 2.0, Moves(CATEGORIES, None, (*GROUPS[:2], (7, 8, 9))))
    with pytest.raises(InvalidInput, match="other units or groups"):
        check_agreement(graph, found, attacks)


@pytest.mark.parametrize(
    ("onehot", "free", "said"),
    [
        ([[1, 2, 3], [3, 5]], None, "none of them in two"),
        ([[1, 1]], None, "none of them in two"),
        ([[5]], None, "two or more"),
        ([[]], None, "two or more"),
        ([1, 2, 3], None, r"as \[\[0, 1, 2\]"),
        ("abc", None, r"as \[\[0, 1, 2\]"),
        ([[1.0, 2.0]], None, r"as \[\[0, 1, 2\]"),
        ([[9, 10]], None, "from 0 to 9"),
        ([[-1, 2]], None, "from 0 to 9"),
        ([[1, 2, 3]], [0, 1, 2], "not all of which is free"),
        ([[1, 2, 3]], [0, 4], "not all of which is free"),
        ([[1, 2]], None, r"row 0 with \[0.0, 0.0\] in the group \[1, 2\]"),
        ([[0, 4]], None, "row 0 with"),
    ],
)
def test_what_cannot_be_meant_is_refused(onehot, free, said: str) -> None:
    x = rows()
    x[0, 1:4] = torch.tensor([0.0, 0.0, 1.0])
    with pytest.raises(InvalidInput, match=said):
        certified(net, x, 2.0, Moves(free, None, onehot))


def test_verbs_about_constants_refuse_groups() -> None:
    from holdfast.audits.study import AuditOptions
    from holdfast.brackets.lipschitz import LipschitzOptions
    from holdfast.certificates.conditions import ConditionsOptions

    for options in (AuditOptions, LipschitzOptions, ConditionsOptions):
        with pytest.raises(Unsupported, match="use certify and attack"):
            options(moves=Moves(None, None, GROUPS))


@pytest.fixture
def data(tmp_path) -> str:
    """Write rows with named columns."""
    x = rows()
    labels = net()(x).argmax(1).tolist()
    lines = [",".join(map(str, [*row, y])) for row, y in zip(x.tolist(), labels, strict=True)]
    head = "age,red,green,blue,dollars,yes,no,north,south,east,label\n"
    (tmp_path / "rows.csv").write_text(head + "\n".join(lines) + "\n")
    return f"csv:{tmp_path / 'rows.csv'}"


NAME = "module:tests.test_onehot:net"


def run(words: list[str], code: int = 0) -> None:
    with pytest.raises(SystemExit) as ending:
        cli.main(words)
    assert ending.value.code == code


def test_the_command_line_takes_names_and_numbers(data: str, tmp_path, capsys) -> None:
    model, x = net(), rows()
    expected = holdfast.certify(model, x, model(x).argmax(1), free=CATEGORIES, onehot=GROUPS)
    groups = [
        "--free",
        "1-3,5-9",
        "--onehot",
        "red, green,blue",
        "--onehot",
        "5-6",
        "--onehot",
        "south,7,east",
    ]
    out = tmp_path / "c.json"
    run(["certify", NAME, data, *groups, "--json", "--attack", "--out", str(out)])
    told = capsys.readouterr()
    assert "will hold no proof" in told.err
    found = json.loads(told.out)
    assert found["radius"] == pytest.approx(expected.radius.tolist())
    assert found["onehot"] == [[1, 2, 3], [5, 6], [7, 8, 9]]
    run(["attack", NAME, data, *groups, "--json"])
    attacks = json.loads(capsys.readouterr().out)
    assert attacks["onehot"] == found["onehot"]
    pairs = zip(found["radius"], attacks["distance"], strict=True)
    assert all(radius <= distance for radius, distance in pairs)


@pytest.mark.parametrize(
    ("verb", "asked", "said"),
    [
        ("certify", ["--onehot", "red,violet"], "age, red, green"),
        ("certify", ["--onehot", "red"], "two or more"),
        ("certify", ["--onehot", "8,12"], "from 0 to 9"),
        ("certify", ["--onehot", "red,green,blue", "--free", "age"], "not all of which is free"),
        ("attack", ["--onehot", "red,green,blue", "--onehot", "blue,no"], "none of them in two"),
        ("attack", ["--onehot", "age,dollars"], "row 0 with"),
        ("lipschitz", ["--onehot", "red,green,blue"], "use certify and attack"),
        ("conditions", ["--onehot", "red,green,blue"], "use certify and attack"),
        ("audit", ["--onehot", "red,green,blue"], "use certify and attack"),
    ],
)
def test_the_command_line_says_what_it_takes(
    verb: str, asked: list[str], said: str, data: str, capsys
) -> None:
    run([verb, NAME, data, *asked], 2)
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
