"""The search for steep pairs: exact constants reached, never passed; regions, seeds, odd nets."""

import json
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from tests.brackets.test_lower import REGIONS, at_most_the_slope, small
from tests.nets import MaxMin, Residual, crossed, load_net
from torch import Tensor, nn

import holdfast
from holdfast.brackets.lower.ascent import ascending_pairs, within
from holdfast.brackets.lower.pairs import SteepPair, contains
from holdfast.brackets.lower.steepest import steepest_pairs
from holdfast.brackets.lower.tangent import kinks, push
from holdfast.graph.comparisons import with_pairs
from holdfast.graph.walk import run
from holdfast.types import Box

NORMS = [1.0, 2.0, math.inf]


def after(calls: int) -> Callable[[], bool]:
    """Return a clock that runs by calls, so that a test does not depend on the machine."""
    left = iter(range(calls))
    return lambda: next(left, None) is None


def start(net: nn.Module, norm: float, region, calls: int) -> Iterator[SteepPair]:
    dtype = next(net.parameters()).dtype
    inputs = net[0].in_features
    points = torch.randn(64, inputs, generator=torch.Generator().manual_seed(0)).to(dtype)
    graph = holdfast.capture(net.eval(), points)
    return ascending_pairs(graph, points, norm, region, after(calls))


def search(net: nn.Module, norm: float = 2.0, region=None, calls: int = 90) -> list[SteepPair]:
    return list(start(net, norm, region, calls))


@pytest.mark.parametrize("norm", NORMS)
def test_witnesses_attain_their_slopes_in_exact_arithmetic(norm: float) -> None:
    net = small()
    found = search(net, norm)
    slopes = [witness.slope for witness in found]
    assert slopes == sorted(set(slopes)) and slopes
    for witness in found:
        assert witness.first.dtype == witness.second.dtype == torch.float64
        assert at_most_the_slope(witness.slope, net, witness.first, witness.second, norm)


@pytest.mark.parametrize("norm", NORMS)
def test_one_hidden_layer_reaches_the_maximum_over_all_patterns(norm: float) -> None:
    net = small(2, wide=5).double()
    inner, outer = net[0].weight.detach(), net[2].weight.detach()
    # 5 units on 6 inputs: their weights are independent, so every pattern occurs.
    patterns = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 5)
    true = float(torch.linalg.matrix_norm(outer * patterns[:, None] @ inner, norm).max())
    best = search(net, norm)[-1].slope
    assert best <= true * (1 + 1e-12)
    assert best >= true * (1 - 1e-6)


def exact_values(shared) -> list[tuple[str, float, float, Box | None]]:
    reference = json.loads((shared / "nets/lipschitz/reference.json").read_text())
    tiny = "tiny_2-8-8-2_moons"
    cases = [(f"lipschitz/{tiny}", 2.0, reference[tiny]["exact"], None)]
    published = {
        entry["file"].removesuffix(".safetensors"): entry["published"]
        for entry in json.loads((shared / "nets/manifest.json").read_text())
        if "lipbab" in entry["file"]
    }
    names = {"l1": 1.0, "l2": 2.0, "linf": math.inf}
    sizes = {"lipbab_iris_4_5_5_3": (4, 1.0), "lipbab_sd_10_15_10_3": (10, 0.1)}
    for stem, entry in published.items():
        if stem in sizes:
            inputs, high = sizes[stem]
            box = Box(torch.zeros(inputs), torch.full((inputs,), high, dtype=torch.float64))
            exact = entry["exact_local_lipschitz"]
            cases += [(stem, norm, exact[name], box) for name, norm in names.items()]
        elif entry["exact_global_l2_lipschitz"]:
            cases.append((stem, 2.0, entry["exact_global_l2_lipschitz"], None))
    return cases


@pytest.mark.parametrize("part", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_exact_constants_are_reached_and_never_passed(shared, part: int) -> None:
    cases = exact_values(shared)
    assert len(cases) == 10
    for stem, norm, exact, region in cases[part::2]:
        net, _ = load_net(shared / "nets" / stem)
        for best in start(net, norm, region, calls=3000):
            assert best.slope <= exact * (1 + 1e-9), stem
            assert bool(contains(region, torch.stack([best.first, best.second])).all())
            if best.slope >= exact * (1 - 1e-7):
                break
        else:
            pytest.fail(f"{stem}: {best.slope} < {exact}")


@pytest.mark.slow
def test_the_search_beats_the_data_and_stays_below_the_upper_bounds(shared) -> None:
    reference = json.loads((shared / "nets/lipschitz/reference.json").read_text())
    for name in ("digits_32_rand", "digits_32_trained", "deep_10x64_gauss"):
        net, _ = load_net(shared / "nets/lipschitz" / name)
        points = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        graph = holdfast.capture(net, points)
        data = [pair.slope for pair in steepest_pairs(graph, points, 2.0, None)][-1]
        best = search(net, calls=180)[-1].slope
        assert data < best <= reference[name]["lipsdp_neuron"]
        assert best >= 0.99 * reference[name]["best_lower"]


@pytest.mark.parametrize(("region", "norm"), crossed(REGIONS, NORMS))
def test_witnesses_stay_in_the_region(region, norm: float) -> None:
    found = search(small(wide=32), norm, region, calls=60)
    assert found
    for witness in found:
        assert bool(contains(region, torch.stack([witness.first, witness.second])).all())


def test_entries_that_a_box_fixes_do_not_move() -> None:
    low = torch.zeros(6)
    high = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    net = small().double()
    for norm in NORMS:
        best = search(net, norm, Box(low, high))[-1]
        assert bool((best.first == best.second)[high == 0].all())
        moving = torch.linalg.matrix_norm(net[0].weight.detach()[:, high > 0], norm)
        outer = torch.linalg.matrix_norm(net[2].weight.detach(), norm)
        assert 0 < best.slope <= float(moving * outer)


def test_a_search_goes_on_from_the_first_point() -> None:
    net = small(wide=32)
    best = search(net)[-1]
    rows = torch.cat([best.first[None], torch.randn(999, 6)])
    graph = holdfast.capture(net, torch.zeros(1, 6))
    again = list(ascending_pairs(graph, rows, 2.0, None, after(0), seed=1))[-1]
    assert again.slope >= best.slope * (1 - 1e-6)


def test_the_same_seed_gives_the_same_pairs() -> None:
    one, two = search(small()), search(small())
    assert [w.slope for w in one] == [w.slope for w in two]
    assert torch.equal(one[-1].first, two[-1].first)


def test_the_clock_ends_the_search() -> None:
    graph = holdfast.capture(small(), torch.zeros(1, 6))
    pairs = ascending_pairs(graph, torch.randn(20, 6), 2.0, None, within(0.0))
    assert next(pairs).slope > 0  # the given points are measured in any case
    assert not list(pairs)


def test_dead_nets_have_no_witness() -> None:
    net = small()
    net[2].weight.data.zero_()
    assert not search(net, calls=60)
    net = small()
    net[0].weight.data.zero_()
    net[0].bias.data.fill_(-1.0)
    assert not search(net, calls=60)


def test_an_affine_net_is_done_at_once() -> None:
    net = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double()
    best = search(net, calls=10**9)[-1].slope
    true = float(torch.linalg.matrix_norm((net[1].weight @ net[0].weight).detach(), 2))
    assert true * (1 - 1e-9) <= best <= true * (1 + 1e-12)


class Swapped(nn.Module):
    """An op that neither vocabulary nor forward mode may know."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x) + x.roll(1, 1)


ODD = {
    "leaky": [nn.LeakyReLU(0.2)],
    "prelu": [nn.PReLU(8)],
    "hardtanh": [nn.Hardtanh()],
    "hardsigmoid": [nn.Hardsigmoid()],
    "hardswish": [nn.Hardswish()],
    "maxmin": [MaxMin()],
    "residual": [Residual(nn.Linear(8, 8), nn.ReLU())],
    "tanh": [nn.Tanh()],
    "gelu": [nn.GELU()],
    "softmax": [nn.Softmax(1)],
    "norm": [nn.LayerNorm(8), nn.ReLU()],
    "max_pool": [nn.Unflatten(1, (2, 4)), nn.MaxPool1d(3, 2, 1), nn.Flatten(), nn.ReLU()],
    "dilated": [nn.Unflatten(1, (2, 4)), nn.MaxPool1d(2, 1, 0, 2), nn.Flatten(), nn.ReLU()],
}


@pytest.mark.parametrize(
    "name", [pytest.param(k, marks=pytest.mark.slow) if n % 2 else k for n, k in enumerate(ODD)]
)
def test_all_kinds_of_nets_are_climbed(name: str) -> None:
    torch.manual_seed(5)
    middle = nn.Sequential(*ODD[name])
    width = middle(torch.zeros(1, 8)).shape[1]
    net = nn.Sequential(nn.Linear(6, 8), middle, nn.Linear(width, 3)).double()
    found = search(net, calls=45)
    with torch.no_grad():
        for witness in found:
            change = net(witness.first[None]) - net(witness.second[None])
            slope = float(change.norm() / (witness.first - witness.second).norm())
            assert witness.slope <= slope * (1 + 1e-6)
    graph = holdfast.capture(net.eval(), torch.zeros(2, 6, dtype=torch.float64))
    points = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)).double()
    assert found[-1].slope >= 0.999 * [w.slope for w in steepest_pairs(graph, points, 2, None)][-1]


@pytest.mark.parametrize("name", ODD)
def test_the_true_tangent_is_the_derivative(name: str) -> None:
    torch.manual_seed(6)
    net = nn.Sequential(nn.Linear(6, 8), *ODD[name]).double().eval()
    points, directions = torch.randn(2, 20, 6).double()
    graph = with_pairs(holdfast.capture(net, points).double())

    def function(x: Tensor) -> Tensor:
        return run(graph, x)

    _, expected = torch.func.jvp(function, (points,), (directions,))
    torch.testing.assert_close(push(graph, points, directions, None), expected)
    sharp = push(graph, points, directions, 1e9)
    torch.testing.assert_close(sharp, expected, rtol=1e-3, atol=1e-5)
    assert kinks(graph, points).shape[0] == 20


def test_an_op_outside_the_vocabulary_has_a_tangent() -> None:
    net = Swapped().eval()
    points, directions = torch.randn(2, 4, 3).double()
    graph = holdfast.capture(net, points).double()
    expected = points.cos() * directions + directions.roll(1, 1)
    torch.testing.assert_close(push(graph, points, directions, None), expected)
