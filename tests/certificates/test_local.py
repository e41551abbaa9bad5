"""Radii from bounds on a ball around each row, and bounds of change."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.nets import MaxMin, Residual, crossed
from torch import Tensor, nn

import holdfast
from holdfast.certificates.local import Balls, local_radii
from holdfast.errors import InvalidInput, Unsupported
from holdfast.graph.running import evaluate

NORMS = (1.0, 2.0, math.inf)


def crown_holds(
    model: nn.Sequential, x: np.ndarray, label: int, radius: float, norm: float
) -> bool:
    """Return whether CROWN proves the label on a ball: a ReLU chain, one row, plain loops."""
    order = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[norm]
    layers = [module for module in model if isinstance(module, nn.Linear)]
    weights = [layer.weight.detach().double().numpy() for layer in layers]
    biases = [layer.bias.detach().double().numpy() for layer in layers]

    def lowest(rows: np.ndarray, depth: int, slopes: list) -> np.ndarray:
        """Bound rows times the pre-activations of layer `depth` from below."""
        const = rows @ biases[depth]
        rows = rows @ weights[depth]
        for k in reversed(range(depth)):
            lower, upper, shift = slopes[k]
            up, down = rows.clip(min=0), rows.clip(max=0)
            const = const + down @ shift
            rows = up * lower + down * upper
            const = const + rows @ biases[k]
            rows = rows @ weights[k]
        return const + rows @ x - radius * np.linalg.norm(rows, ord=order, axis=1)

    slopes: list = []
    for depth in range(len(layers) - 1):
        eye = np.eye(len(biases[depth]))
        low, high = lowest(eye, depth, slopes), -lowest(-eye, depth, slopes)
        unsure = (low < 0) & (high > 0)
        chord = np.where(unsure, high / np.where(unsure, high - low, 1.0), (low >= 0) * 1.0)
        flat = np.where(unsure, (low + high > 0) * 1.0, (low >= 0) * 1.0)
        slopes.append((flat, chord, np.where(unsure, -chord * low, 0.0)))
    others = [j for j in range(len(biases[-1])) if j != label]
    spec = np.eye(len(biases[-1]))[label] - np.eye(len(biases[-1]))[others]
    return bool((lowest(spec, len(layers) - 1, slopes) > 0).all())


@pytest.mark.parametrize(
    "norm", [*(pytest.param(p, marks=pytest.mark.slow) for p in (1.0, 2.0)), math.inf]
)
def test_radii_are_those_of_a_plain_search(norm: float) -> None:
    """Bisection over plain loops; the grid of radii costs at most one of its steps.

    What CROWN proves does not quite fall with the radius, so that a rare row has two crossings.
    """
    below = 0
    for seed in range(6):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
        ).eval()
        x = torch.randn(1, 3)
        label = int(model(x).argmax())
        low, high = 0.0, 8.0
        for _ in range(30):
            middle = (low + high) / 2
            held = crown_holds(model, x[0].double().numpy(), label, middle, norm)
            low, high = (middle, high) if held else (low, middle)
        radius = float(holdfast.certify(model, x, torch.tensor([label]), norm, "local").radius)
        below += radius < low * 2 ** (-1 / 1024) * (1 - 1e-6)
        assert radius > 0.9 * low
    assert below <= 2


def attacked(graph: holdfast.Graph, x: Tensor, label: int, radius: float, norm: float) -> bool:
    """Return whether a sampled point of the ball provably has another class."""
    steps = torch.randn(400, *x.shape, dtype=torch.float64)
    flat = steps.flatten(1)
    if math.isinf(norm):
        flat = flat.sign()
    flat = flat / torch.linalg.vector_norm(flat, ord=norm, dim=1, keepdim=True) * radius
    points = x.double() + (flat * (1 - 1e-12)).reshape(steps.shape)
    moved = torch.linalg.vector_norm((points - x.double()).flatten(1), ord=norm, dim=1)
    out = evaluate(graph, points[moved < radius])
    own = (out.value + out.error)[:, label]
    rest = (out.value - out.error).clone()
    rest[:, label] = -math.inf
    return bool((rest.amax(1) > own).any())


ZOO = {
    "tanh": lambda: nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)),
    "gelu": lambda: nn.Sequential(
        nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 9), nn.SiLU(), nn.Linear(9, 3),
    ),
    "residual": lambda: nn.Sequential(
        nn.Linear(6, 6), Residual(nn.Linear(6, 6), nn.ReLU()), nn.Linear(6, 3),
    ),
    "maxmin": lambda: nn.Sequential(nn.Linear(6, 8), MaxMin(), nn.Linear(8, 3)),
    "conv": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 4, 2),
        nn.LeakyReLU(3.0), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(8, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "norm"), crossed(ZOO, NORMS))
def test_nothing_flips_inside_a_local_radius(name: str, norm: float) -> None:
    torch.manual_seed(3)
    model = ZOO[name]().eval()
    x = torch.randn(12, 6)
    labels = model(x).argmax(1)
    certificates = holdfast.certify(model, x, labels, norm, "local")
    graph = holdfast.capture(model, x)
    assert certificates.radius.min() > 0
    for row, label, radius in zip(x, labels.tolist(), certificates.radius.tolist(), strict=True):
        assert not attacked(graph, row, label, radius, norm)


def small_classifier() -> tuple[nn.Module, Tensor, Tensor]:
    """Return a net for which sometimes the global and sometimes the local radius is larger."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
    )
    inputs = 0.3 * torch.randn(40, 8)
    return model.eval(), inputs, model(inputs).argmax(1)


def test_auto_is_the_larger_of_the_two_row_by_row() -> None:
    model, inputs, labels = small_classifier()
    radii = {
        method: holdfast.certify(model, inputs, labels, 2, method)
        for method in ("global", "local", "auto")
    }
    best = torch.maximum(radii["global"].radius, radii["local"].radius)
    assert torch.equal(radii["auto"].radius, best)
    wins = [
        "local" if mine > theirs else "global"
        for mine, theirs in zip(radii["local"].radius, radii["global"].radius, strict=True)
    ]
    assert list(radii["auto"].method) == wins
    assert set(radii["local"].method) == {"local"}


@pytest.mark.parametrize("norm", NORMS)
def test_a_radius_that_exceeds_what_is_enough_is_found_as_ever(norm: float) -> None:
    model, inputs, labels = small_classifier()
    balls = Balls(holdfast.capture(model, inputs[:1]), inputs, labels, norm)
    radius, _ = local_radii(balls, torch.zeros(40, dtype=torch.float64))
    for share in (0.01, 0.5, 0.999, 1.001, 2.0, 100.0):
        found, _ = local_radii(balls, share * radius)
        assert torch.equal(found, radius if share < 1 else torch.zeros_like(radius))
    mixed = torch.where(torch.arange(40) % 2 == 0, 0.5, 2.0)
    assert torch.equal(local_radii(balls, mixed * radius)[0], torch.where(mixed < 1, radius, 0.0))


@pytest.mark.parametrize(
    "norm", [math.inf, *(pytest.param(norm, marks=pytest.mark.slow) for norm in (1.0, 2.0))]
)
def test_a_radius_depends_on_its_row_alone(norm: float) -> None:
    model, inputs, labels = small_classifier()
    together = holdfast.certify(model, inputs, labels, norm, "local").radius
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = holdfast.certify(model, inputs[order], labels[order], norm, "local").radius
    assert torch.equal(shuffled, together[order])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        alone = [
            holdfast.certify(model, inputs[k : k + 1], labels[k : k + 1], norm, "local").radius
            for k in range(3)
        ]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.cat(alone), together[:3])


def sampled(graph: holdfast.Graph, x: Tensor, epsilon: float, norm: float) -> Tensor:
    """Return outputs at points of the ball around one row."""
    steps = torch.randn(300, x.numel(), dtype=torch.float64)
    steps = steps.sign() if math.isinf(norm) else steps
    lengths = torch.linalg.vector_norm(steps, ord=norm, dim=1, keepdim=True)
    return evaluate(
        graph, x.double() + (steps / lengths * epsilon * 0.999999).reshape(-1, *x.shape)
    ).value


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [0.05, 1.0])
def test_changes_contain_what_happens(norm: float, epsilon: float) -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(5, 12), nn.GELU(), nn.Linear(12, 4)).eval()
    x, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 0, 1])
    certificates = holdfast.certify(model, x, labels, norm)
    graph = holdfast.capture(model, x)
    output, loss = certificates.output_change(epsilon), certificates.loss_change(epsilon)
    for k in range(6):
        there, here = sampled(graph, x[k], epsilon, norm), evaluate(graph, x[k : k + 1]).value
        moved = torch.linalg.vector_norm(there - here, ord=norm, dim=1).max()
        label = labels[k].expand(len(there))
        change = F.cross_entropy(there, label, reduction="none") - F.cross_entropy(here, label[:1])
        assert moved <= output[k]
        assert change.abs().max() <= loss[k]
    assert (output <= certificates.constant * epsilon * (1 + 1e-12)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_change_beyond_float64_is_infinite(norm: float) -> None:
    """The output moves by 1e310."""
    model = nn.Linear(1, 2, bias=False).double()
    model.weight.data = torch.tensor([[1e300], [0.0]], dtype=torch.float64)
    row = torch.ones(1, 1, dtype=torch.float64)
    certificates = holdfast.certify(model, row, torch.tensor([0]), norm)
    assert float(certificates.output_change(1e10)) == math.inf
    assert float(certificates.loss_change(1e10)) == math.inf


def test_changes_shrink_to_rounding_and_beat_the_constant() -> None:
    model, inputs, labels = small_classifier()
    certificates = holdfast.certify(model, inputs, labels, 2)
    assert float(certificates.output_change(0.0).max()) == 0.0
    assert float(certificates.loss_change(0.0).max()) == 0.0
    constant = certificates.constant * 0.01
    assert float(certificates.output_change(0.01).median()) < 0.9 * constant


def test_a_file_keeps_the_constant_alone(tmp_path) -> None:
    model, inputs, labels = small_classifier()
    certificates = holdfast.certify(model, inputs, labels, 2)
    certificates.save(tmp_path / "c.json")
    loaded = holdfast.Certificates.load(tmp_path / "c.json", claimed=True)
    assert torch.equal(loaded.radius, certificates.radius)
    assert loaded.method == certificates.method
    assert (loaded.output_change(0.01) >= certificates.output_change(0.01)).all()
    assert torch.isfinite(loaded.loss_change(0.01)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_targets_get_bounds_of_change_and_no_class(norm: float, tmp_path) -> None:
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(4, 8), nn.Softplus(), nn.Linear(8, 2)).eval()
    x, targets = torch.randn(5, 4), torch.randn(5, 2)
    x[4, 0] = math.nan
    certificates = holdfast.certify(model, x, targets, norm)
    assert certificates.reason == ("no_class",) * 4 + ("not_finite",)
    assert not certificates.radius.any()
    graph = holdfast.capture(model, x[:1])
    output, loss = certificates.output_change(0.2), certificates.loss_change(0.2)
    assert torch.isinf(output).tolist() == [False] * 4 + [True]
    for k in range(4):
        there, here = sampled(graph, x[k], 0.2, norm), evaluate(graph, x[k : k + 1]).value
        errors = (
            ((there - targets[k].double()) ** 2).mean(1),
            ((here - targets[k].double()) ** 2).mean(),
        )
        assert torch.linalg.vector_norm(there - here, ord=norm, dim=1).max() <= output[k]
        assert (errors[0] - errors[1]).abs().max() <= loss[k]
    for ask in (lambda: certificates.clean_accuracy, lambda: certificates.save(tmp_path / "c")):
        with pytest.raises(InvalidInput, match="targets"):
            ask()


def test_targets_that_do_not_fit() -> None:
    model = nn.Linear(3, 2).eval()
    with pytest.raises(InvalidInput, match="class numbers are integers"):
        holdfast.certify(model, torch.zeros(4, 3), torch.zeros(4))
    with pytest.raises(InvalidInput, match="finite targets"):
        holdfast.certify(model, torch.zeros(1, 3), torch.tensor([[math.inf, 0.0]]))
    single = holdfast.certify(nn.Linear(3, 1).eval(), torch.zeros(4, 3), torch.zeros(4))
    assert single.labels.shape == (4, 1)


def test_local_names_every_op_without_bounds() -> None:
    class Squared(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cumprod(x, 1)[:, :2] * torch.erfinv(x)[:, :2]

    with pytest.raises(Unsupported, match=r"cumprod.*erfinv"):
        holdfast.certify(Squared().eval(), torch.ones(1, 3), torch.tensor([0]), 2, "local")


def test_local_bounds_of_models_that_never_move_or_never_hold() -> None:
    constant = nn.Linear(3, 2).eval()
    with torch.no_grad():
        constant.weight.zero_()
        constant.bias.copy_(torch.tensor([1.0, 0.0]))
    certificates = holdfast.certify(constant, torch.zeros(2, 3), torch.tensor([0, 1]))
    assert certificates.radius.tolist() == [math.inf, 0.0]
    assert certificates.reason == ("certified", "misclassified")
    huge = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double().eval()
    with torch.no_grad():
        huge[0].weight.mul_(1e120)
        huge[2].weight.mul_(1e150)
    x = torch.randn(8, 3).double()
    radius = holdfast.certify(huge, x, huge(x).argmax(1), 2, "local").radius
    assert torch.isfinite(radius).all()


def test_a_row_where_the_gradient_vanishes_still_gets_its_radius() -> None:
    """All units are off at the row: f = (1, relu(x - 1)) ties at 2."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(-1.0)
        model[2].weight.copy_(torch.tensor([[0.0], [1.0]]))
        model[2].bias.copy_(torch.tensor([1.0, 0.0]))
    radius = holdfast.certify(model, torch.zeros(1, 1), torch.tensor([0]), 2, "local").radius
    assert 1.2 < float(radius) < 2.0


def test_bounds_that_collapse_far_out_are_crossed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In place of bounds stands 0.2 (2 - exp(256 r)), which at the first radius is -1e7."""

    def held(_: Balls, radius: Tensor, *__: object) -> tuple[Tensor, list[None]]:
        return 0.2 * (2.0 - torch.exp(256.0 * radius)), [None] * len(radius)

    monkeypatch.setattr(Balls, "held", held)
    graph = holdfast.capture(nn.Linear(2, 2).eval(), torch.zeros(1, 2))
    balls = Balls(graph, torch.zeros(1, 2), torch.tensor([0]), 2.0)
    found = float(local_radii(balls, torch.zeros(1, dtype=torch.float64))[0])
    assert found <= 0.2 * (2.0 - math.exp(256.0 * found))
    assert 1.001 * found > 0.2 * (2.0 - math.exp(256.0 * 1.001 * found))
