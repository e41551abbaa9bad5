"""Certificates: counts by brute force, exact cases, coverage, vacuity and what is refused."""

import math

import pytest
import torch

from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.evidence.edges import Edges, split
from holdfast.knowledge_continuity.evidence.evidence import count_anchors
from holdfast.knowledge_continuity.measure import measure
from holdfast.knowledge_continuity.pairs.points import Points

GRID = ([0.5, 1.0, 2.5], [0.1, 0.4])
NONE = torch.zeros(100, dtype=torch.bool)


def rows(n, seed=0, width=3, dtype=torch.float64):
    """Return states, losses that follow them roughly, and labels."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(n, width, generator=generator, dtype=dtype)
    losses = states[:, 0].double().sigmoid()
    return states, losses, torch.randint(2, (n,), generator=generator)


def sample(states, losses):
    return Points(states, losses, torch.zeros(len(losses)))


def known(n=80, **options):
    states, losses, labels = rows(n)
    return measure({"layer": states}, losses, labels, **options), (states, losses, labels)


def brute(anchors, tests, delta, eta):
    """Return rows whose nearest anchor is near and differs, and near rows, by the definition."""
    bad = near = 0
    for state, loss in zip(*tests, strict=True):
        distances = [float((state - a).norm()) for a in anchors[0]]
        closest = min(range(len(distances)), key=distances.__getitem__)
        near += distances[closest] <= delta
        bad += distances[closest] <= delta and abs(float(loss - anchors[1][closest])) > eta
    return bad, near


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_by_nearest_and_by_each_anchor(dtype):
    (a, la, _), (t, lt, _) = rows(15, 1, dtype=dtype), rows(40, 2, dtype=dtype)
    edges = Edges((*GRID[0], math.inf), (0.0, *GRID[1]), 1e-6)
    nearest, each = count_anchors(sample(a, la), sample(t, lt), "euclidean", edges, NONE[:40])
    for g, delta in enumerate(edges.deltas):
        for e, eta in enumerate(edges.etas):
            assert (nearest.bad[g, e], nearest.near[g]) == brute((a, la), (t, lt), delta, eta)
            for i in range(15):
                alone = brute((a[i : i + 1], la[i : i + 1]), (t, lt), delta, eta)
                assert (each.bad[i, g, e], each.near[i, g]) == alone
    assert nearest.trials == 40


def test_pairs_are_those_of_the_certification_rows_alone():
    knowledge, (states, losses, _) = known(grid=GRID)
    anchors, tests = split(80, 0)
    assert not set(anchors.tolist()) & set(tests.tolist())
    assert sorted([*anchors.tolist(), *tests.tolist()]) == list(range(80))
    pairs = knowledge.evidence["layer"].pairs
    distances = torch.cdist(states[tests], states[tests]).triu(1)
    change = (losses[tests, None] - losses[tests]).abs()
    for g, delta in enumerate(GRID[0]):
        near = (distances <= delta) & (distances > 0)
        assert pairs.near[g] == near.sum()
        for e, eta in enumerate(GRID[1], start=1):
            assert pairs.bad[g, e] == (near & (change > eta)).sum()
    assert pairs.trials == 40 * 39 // 2


def test_rounds_count_matchings_of_the_certification_rows():
    knowledge, _ = known(grid=GRID, pairs=7)
    assert knowledge.evidence["layer"].pairs.trials == 7 * 20
    full, _ = known(grid=GRID)
    assert torch.equal(knowledge.evidence["layer"].nearest.bad, full.evidence["layer"].nearest.bad)


def test_ties_and_rounding_count_against_the_model():
    """Two anchors equally near, one with another loss; distance and change exactly on an edge."""
    anchors = sample(torch.tensor([[0.0], [2.0]]), torch.tensor([0.0, 0.9]))
    tests = sample(torch.tensor([[1.0]]), torch.tensor([0.0]))
    edges = Edges((1.0, math.inf), (0.0, float(anchors.losses[1])), 1e-3)
    nearest, _ = count_anchors(anchors, tests, "euclidean", edges, NONE[:1])
    assert nearest.bad[0, 1] == 1
    assert nearest.near[0] == 0  # the distance may be above 1 by rounding


def test_the_papers_counterexample_is_not_certified():
    """KNOWLEDGE.md 1.2: two points, truth 1 for the set statement; the printed bound is .0256."""
    states = torch.tensor([[0.0], [1.0]]).repeat(500, 1)
    knowledge = measure(
        {"h": states}, states[:, 0], torch.zeros(1000), grid=([0.01], [0.4]), repeats="draws"
    )
    joint = knowledge.certificate("h", 0.01, 0.4, method="pairs")
    # Two independent points are at distance 0 with probability 1/2, and then have the same loss.
    assert joint.observed == 0 and joint.near > 0 and not joint.vacuous
    everything = knowledge.certificate("h", 10.0, 0.4, method="pairs")
    assert everything.probability >= 1 / 2
    assert everything.conditional >= 1 / 2
    # Against the mean over the distribution, every point is bad and near: no method says .0256.
    assert knowledge.volatility["h"].value * 999 / 1000 == pytest.approx(1 / 2)


def test_exact_case_e1_holds_in_its_bounds():
    """Weights 1/2, 1/4, 1/4: P(d <= delta, Delta > eta) for three cells, collisions included."""
    generator = torch.Generator().manual_seed(0)
    points = torch.tensor([0, 0, 1, 2])[torch.randint(4, (4000,), generator=generator)]
    states = torch.tensor([[0.0], [1.0], [3.0]])[points]
    losses = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)[points]
    truth = {(1.5, 0.6): 1 / 4, (2.5, 0.4): 3 / 8, (3.5, 0.4): 5 / 8}
    grid = ([1.5, 2.5, 3.5], [0.4, 0.6])
    knowledge = measure({"h": states}, losses, points, grid=grid, repeats="draws")
    for (delta, eta), p in truth.items():
        found = knowledge.certificate("h", delta, eta, method="pairs")
        assert p <= found.probability <= p + 0.08
        near = {1.5: 5 / 8, 2.5: 3 / 4, 3.5: 1.0}[delta]
        assert p / near <= found.conditional <= p / near + 0.2


def test_exact_cases_e2_and_e3_hold_in_their_bounds():
    """x uniform on [0, 1]: h = 2x, L = x: 5/16; h = x, L = x^2: .140551."""
    x = torch.rand(1500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    states = {"two": 2 * x[:, None], "one": x[:, None]}
    linear = measure(states, x, torch.zeros(1500), grid=([1.0], [0.25]))
    square = measure(states, x.square(), torch.zeros(1500), grid=([0.3], [0.2]))
    assert 5 / 16 <= linear.certificate("two", 1.0, 0.25, method="pairs").probability < 0.41
    found = square.certificate("one", 0.3, 0.2, method="pairs")
    assert 0.140551 <= found.probability < 0.22


def test_off_the_grid_the_next_cell_counts():
    knowledge, _ = known(grid=GRID)
    asked = knowledge.certificate("layer", 0.7, 0.3)
    cell = knowledge.certificate("layer", 1.0, 0.1)
    # A smaller ball may hold a larger share of loss changes: the statement must name the cell.
    assert asked == cell and (asked.delta, asked.eta) == (1.0, 0.1)
    beyond = knowledge.certificate("layer", 99.0, 0.01)
    assert beyond.near == beyond.trials == 40
    assert beyond.vacuous


def test_bounds_grow_with_delta_and_fall_with_eta():
    knowledge, _ = known(n=300)
    for method in ("nearest", "pairs"):
        cells = knowledge.frontier("layer", method=method).cells
        joint = torch.tensor([[cell.probability for cell in row] for row in cells])
        assert (joint.diff(dim=0) >= 0).all() and (joint.diff(dim=1) <= 0).all()
        assert all(cell.multiplicity == 2 * len(cells) * len(cells[0]) for cell in cells[0])


def test_the_frontier_answers_both_ways():
    x = torch.rand(2000, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    knowledge = measure({"h": x}, x[:, 0], torch.zeros(2000), grid=([0.01, 0.1, 0.5], [0.05, 0.2]))
    front = knowledge.frontier("h", method="pairs")
    assert front.smallest_eta(0.1, 0.1) == 0.2
    assert front.largest_delta(0.2, 0.1) == 0.1
    assert front.smallest_eta(0.5, 0.01) is None
    assert front.largest_delta(0.04, 1e-9) is None
    for eta in (-0.5, math.nan, math.inf):
        with pytest.raises(InvalidInput, match="eta: got"):
            front.largest_delta(eta, 0.5)
    for delta in (0.0, -1.0, math.nan):
        with pytest.raises(InvalidInput, match="delta: got"):
            front.smallest_eta(delta, 0.5)
    for level in (-0.1, 1.1, math.nan):
        with pytest.raises(InvalidInput, match="level: got"):
            front.largest_delta(0.2, level)


def test_vacuous_certificates_say_why():
    far = torch.arange(40.0)[:, None] * 100
    empty = measure({"h": far}, torch.rand(40), torch.zeros(40), grid=([1.0], [0.5]))
    found = empty.certificate("h", 1.0, 0.5)
    assert found.vacuous and "no certification data lies within delta" in found.why
    assert found.statement.startswith("VACUOUS: no certification data")
    noise, _ = known(grid=([0.7], [1e-9]))
    found = noise.certificate("layer", 0.7, 1e-9)
    assert found.vacuous and any("no better" in reason for reason in found.why)


def test_the_statement_says_what_is_and_what_is_not_claimed():
    knowledge, _ = known(n=400, grid=([3.0], [0.9]))
    found = knowledge.certificate("layer", 3.0, 0.9, confidence=0.9)
    assert not found.vacuous
    for words in (
        "with confidence 0.9", "drawn from the same distribution", "200 anchors", "'layer'",
        "not a statement about all inputs within delta", "adversarial inputs", "void it",
        f"shared by {found.multiplicity} bounds",
    ):  # fmt: skip
        assert words in found.statement
    assert found.multiplicity == 2 * 1 * 2 * 2


def test_one_anchor_at_a_time():
    knowledge, _ = known(grid=GRID)
    found = knowledge.certificate("layer", 2.5, 0.4, method="anchor", anchor=3)
    assert found.multiplicity == 40 * 2 * 4 * 3
    assert found.trials == 40 and "this anchor" in found.statement
    with pytest.raises(InvalidInput, match="one of the 40 anchors"):
        knowledge.certificate("layer", 2.5, 0.4, method="anchor", anchor=40)


def test_a_given_reference_frees_all_rows_for_certification():
    anchors, tests = rows(30, 1), rows(50, 2)
    knowledge = measure(
        {"layer": tests[0]}, *tests[1:], reference=({"layer": anchors[0]}, anchors[1])
    )
    assert knowledge.evidence["layer"].rows == 50
    assert len(knowledge.evidence["layer"].anchors.bad) == 30


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (lambda s, x: ({}, x), r"no states of \['layer'\]"),
        (lambda s, x: ({"layer": s[:1]}, x[:1]), "N at least 2"),
    ],
)
def test_references_that_do_not_serve_are_refused(reference, message):
    states, losses, labels = rows(80)
    with pytest.raises(InvalidInput, match=message):
        measure({"layer": states}, losses, labels, reference=reference(states, losses))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("layers", 1.0, 0.1), "did you mean 'layer'"),
        (("layer", 0.0, 0.1), "a distance above 0"),
        (("layer", math.nan, 0.1), "a distance above 0"),
        (("layer", 1.0, -0.1), "a loss change"),
        (("layer", 1.0, math.nan), "a loss change"),
        (("layer", 1.0, 0.1, 1.0), "confidence"),
        (("layer", 1.0, 0.1, 0.95, "paper"), "one of nearest, anchor, pairs"),
        (("layer", 1.0, 0.1, 0.95, "anchor"), "one of the 40 anchors"),
    ],
)
def test_what_cannot_be_certified_is_refused(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        known()[0].certificate(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": ([0.0], [1.0])}, "above 0"),
        ({"grid": ([1.0], [])}, "above 0"),
        ({"pairs": 0}, "rounds"),
        ({"pairs": "some"}, "rounds"),
        ({"near": 0.0}, "share"),
        ({"near": 1.5}, "share"),
        ({"kernel": "inverted"}, "kernel: got"),
    ],
)
def test_options_that_do_not_exist_are_refused(options, message):
    with pytest.raises(InvalidInput, match=message):
        known(**options)


def test_a_constant_layer_has_no_certificate_and_says_so():
    knowledge = measure({"h": torch.ones(20, 2)}, torch.rand(20), torch.zeros(20))
    assert knowledge.evidence["h"] is None
    with pytest.raises(InvalidInput, match="one place"):
        knowledge.certificate("h", 1.0, 0.1)


TRIALS = 1000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:reference")  # a row may come as close by chance
@pytest.mark.parametrize("method", ["nearest", "pairs", "anchor", "rounds"])
def test_certificates_cover_at_their_level(method):
    """x uniform on [0, 1], h = x, L = x^2, one cell with delta = .3 and eta = .2.

    Anchors at 0, 1/4, ..., 1 are fixed. Truth for pairs: case E3. The others by integration.
    """
    anchors = torch.linspace(0, 1, 5, dtype=torch.float64)
    grid = torch.linspace(0, 1, 2_000_001, dtype=torch.float64)
    apart = (grid[:, None] - anchors).abs()
    change = (grid[:, None].square() - anchors.square()).abs()
    nearest = apart.argmin(1, keepdim=True)
    bad = {
        "nearest": (change.gather(1, nearest) > 0.1) & (apart.gather(1, nearest) <= 0.3),
        "anchor": (change[:, 3] > 0.1) & (apart[:, 3] <= 0.3),
    }
    near = {"nearest": apart.amin(1) <= 0.3, "anchor": apart[:, 3] <= 0.3}
    t0, delta, eta = 1 - math.sqrt(0.9), 0.3, 0.1
    pairs = 2 * (delta - t0) - (delta**2 - t0**2) / 2 - eta * math.log(delta / t0)
    some = 5 if method == "rounds" else "all"
    method = "pairs" if method == "rounds" else method
    truth = pairs if method == "pairs" else float(bad[method].double().mean())
    given = 2 * delta - delta**2 if method == "pairs" else float(near[method].double().mean())
    covered = 0
    for seed in range(TRIALS):
        x = torch.rand(60, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        knowledge = measure(
            {"h": x[:, None]}, x.square(), torch.zeros(60),
            reference=({"h": anchors[:, None]}, anchors.square()), grid=([delta], [eta]),
            pairs=some,
        )  # fmt: skip
        found = knowledge.certificate(
            "h", delta, eta, 0.8, method, anchor=3 if method == "anchor" else None
        )
        covered += found.probability >= truth and found.conditional >= truth / given
    assert covered >= 0.8 * TRIALS - 4 * math.sqrt(TRIALS * 0.8 * 0.2)
