"""Nets that fool a plausible certifier: it certifies a ball with an exact counterexample.

Each wrong certifier is written out in a few lines and shown to be wrong, in rationals; no method
and no semantics of ours reaches the counterexample, in any norm.
"""

import math
from fractions import Fraction

import numpy as np
import torch
from tests.traps.truth import NORMS, Half, distance_and_witness, every_radius, exact, power
from torch import Tensor, nn

import holdfast
from holdfast.types import dual

BEYOND = 1 + Fraction(1, 2**40)
"""Just beyond the distance to a tie the class has changed."""


def stack(*layers: tuple[Tensor, Tensor | None]) -> nn.Sequential:
    """Return linear layers with these weights and biases."""
    modules = []
    for weight, bias in layers:
        module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        module.weight.data = weight.float()
        if bias is not None:
            module.bias.data = bias.float()
        modules.append(module)
    return nn.Sequential(*modules).eval()


def rational(model: nn.Sequential, point: list[Fraction]) -> list[Fraction]:
    """Run linear layers and ReLUs in rationals."""
    for layer in model:
        if isinstance(layer, nn.ReLU):
            point = [max(entry, Fraction(0)) for entry in point]
            continue
        bias = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
        point = [
            sum(Fraction(w) * entry for w, entry in zip(row, point, strict=True)) + Fraction(b)
            for row, b in zip(layer.weight.tolist(), bias, strict=True)
        ]
    return point


def halves_of(model: nn.Sequential, size: int, label: int = 0) -> list[Half]:
    """Return where an affine net leaves its class."""
    units = [[Fraction(i == j) for j in range(size)] for i in range(size)]
    offset, *values = (rational(model, point) for point in [[Fraction(0)] * size, *units])
    return [
        (
            [v[j] - v[label] - offset[j] + offset[label] for v in values],
            offset[j] - offset[label],
        )
        for j in range(len(offset))
        if j != label
    ]


def check_fooled(
    model: nn.Sequential, x: Tensor, halves: list[Half], wrong: dict[float, float]
) -> None:
    """Show that the wrong radius holds a counterexample, and that no radius of ours does."""
    graph = holdfast.capture(model, x)
    for norm in NORMS:
        true, step = distance_and_witness(halves, exact(x), norm)
        if norm in wrong:
            assert true * power(BEYOND, norm) <= power(Fraction(wrong[norm]), norm)
        found = [a + BEYOND * b for a, b in zip(exact(x), step, strict=True)]
        logits = rational(model, found)
        assert logits.index(max(logits)) != 0
        for radius in every_radius(graph, x, torch.tensor([0]), norm).flatten().tolist():
            assert power(Fraction(radius), norm) <= true, norm


HADAMARD = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2


def steep(top: int) -> tuple[nn.Sequential, Tensor]:
    """Return a linear net of norm 1 along one Hadamard row, and of 7/8 along the others."""
    gains = torch.full((4,), 0.875)
    gains[top] = 1.0
    inner = HADAMARD.T @ torch.diag(gains) @ HADAMARD
    head = torch.stack([torch.zeros(4), 8 * HADAMARD[top]])
    return stack((inner, None), (head, torch.tensor([1.0, 0.0]))), inner


def power_iteration(weight: Tensor, start: Tensor, steps: int, eps: float = 0.0) -> float:
    """Estimate the largest singular value from below."""
    v = start.double()
    for _ in range(steps):
        u = weight.double() @ v
        u = u / (u.norm() + eps)
        v = weight.double().T @ u
        v = v / (v.norm() + eps)
    return float((weight.double() @ v).norm() if eps == 0 else u @ weight.double() @ v)


def test_power_iteration_stopped_early() -> None:
    """Family U1."""
    model, inner = steep(0)
    start = torch.randn(4, generator=torch.Generator().manual_seed(1))
    estimate = power_iteration(inner, start / start.norm(), 2)
    wrong = 1.0 / (estimate * 8.0)
    check_fooled(model, torch.zeros(1, 4), halves_of(model, 4), {2.0: wrong})


def test_power_iteration_from_all_ones() -> None:
    """Family U2: the start is orthogonal to the steepest direction, however many the steps."""
    model, inner = steep(1)
    estimate = power_iteration(inner, torch.ones(4) / 2, 1000)
    assert estimate < 0.876
    wrong = 1.0 / (estimate * 8.0)
    check_fooled(model, torch.zeros(1, 4), halves_of(model, 4), {2.0: wrong})


def rounded(weights: list[float], values: list[float]) -> float:
    """Sum products in float32, one after the other."""
    total = np.float32(0.0)
    for weight, value in zip(weights, values, strict=True):
        total = np.float32(total + np.float32(weight) * np.float32(value))
    return float(total)


def test_huge_opposite_weights_cancel() -> None:
    """Family U3: 1.25 + 2^24 - 2^24 is 2 in float32."""
    big = 2.0**24
    model = stack((torch.tensor([[1.0, big, -big], [0.0, 0.0, 0.0]]), torch.tensor([0.0, 1.0])))
    x = torch.tensor([[1.25, 1.0, 1.0]])
    margin = rounded([1.0, big, -big], x[0].tolist()) - 1.0
    slope = torch.tensor([1.0, big, -big]).double()
    wrong = {norm: margin / float(torch.linalg.vector_norm(slope, dual(norm))) for norm in NORMS}
    check_fooled(model, x, halves_of(model, 3), wrong)


def test_huge_opposite_biases_cancel() -> None:
    """Family U3: the executed class changes within the ball, too."""
    one, big = torch.ones(1, 1), 2.0**24
    head = torch.tensor([[1.0], [0.0]])
    model = stack((one, torch.tensor([big])), (head, torch.tensor([-big, 1.0])))
    x = torch.tensor([[1.25]])
    logits = model(x).detach()[0].tolist()
    wrong = dict.fromkeys(NORMS, logits[0] - logits[1])
    assert int(model(torch.tensor([[1.0]])).argmax()) == 1
    check_fooled(model, x, halves_of(model, 1), wrong)


def test_division_by_a_norm_plus_a_little() -> None:
    """Family U4: of tiny weights `v / (norm + 1e-9)` is no unit vector."""
    model, inner = steep(0)
    inner *= 2.0**-20  # the weight itself
    estimate = power_iteration(inner, HADAMARD[0], 50, 1e-9)
    wrong = 1.0 / (estimate * 8.0)
    check_fooled(model, torch.zeros(1, 4), halves_of(model, 4), {2.0: wrong})


def test_tied_logits_masked_out() -> None:
    """Family U5: what equals the top is taken for the top itself."""
    model = stack((torch.eye(3), None))
    x = torch.ones(1, 3)
    x[0, -1] = 0.0
    logits = model(x).detach()[0]
    others = logits[logits != logits.max()]
    wrong = float(logits.max() - others.max()) / math.sqrt(2.0)
    tiny = Fraction(1, 2**30)
    found = [entry + tiny * (place == 1) for place, entry in enumerate(exact(x))]
    values = rational(model, found)
    assert values.index(max(values)) == 1 and tiny < Fraction(wrong)
    graph = holdfast.capture(model, x)
    for norm in NORMS:
        assert not bool(every_radius(graph, x, torch.tensor([0]), norm).any())


def test_margins_and_radii_rounded_to_nearest() -> None:
    """Family U6: a linear net in float32, each operation correct to half a unit."""
    generator = torch.Generator().manual_seed(6)
    model = stack((torch.randn(3, 5, generator=generator), None))
    inputs = torch.randn(100, 5, generator=generator)
    weight = model[0].weight.data
    logits = inputs @ weight.T
    labels = logits.argmax(1)
    graph = holdfast.capture(model, inputs[:1])
    for norm in NORMS:
        ours = every_radius(graph, inputs, labels, norm)
        fooled = 0
        for row, label in enumerate(labels.tolist()):
            halves = halves_of(model, 5, label)
            true = distance_and_witness(halves, exact(inputs[row]), norm)[0]
            wrong = min(
                float(
                    (logits[row, label] - logits[row, j])
                    / torch.linalg.vector_norm(weight[label] - weight[j], ord=dual(norm))
                )
                for j in range(3)
                if j != label
            )
            fooled += true * power(BEYOND, norm) <= power(Fraction(wrong), norm)
            for radius in ours[:, row].tolist():
                assert power(Fraction(radius), norm) <= true
        assert fooled > 10


def verified(model: nn.Sequential, low: np.ndarray, high: np.ndarray) -> bool:
    """Bound the margin of class 0 over a box in float32 intervals, rounded to nearest."""
    for layer in model:
        if isinstance(layer, nn.ReLU):
            low, high = np.maximum(low, 0), np.maximum(high, 0)
            continue
        weight, bias = layer.weight.data.numpy(), layer.bias.data.numpy()
        up, down = np.maximum(weight, 0), np.minimum(weight, 0)
        low, high = up @ low + down @ high + bias, up @ high + down @ low + bias
    return bool(low[0] > high[1])


def test_bounds_through_huge_biases() -> None:
    """Family U7: what is below 2^-4 is rounded away beside a bias of size 2^20."""
    big = 2.0**20
    first, last = stack(
        (torch.ones(1, 1), torch.tensor([big])),
        (torch.tensor([[1.0], [0.0]]), torch.tensor([-big, 0.2])),
    )
    model = nn.Sequential(first, nn.ReLU(), last).eval()
    x = torch.tensor([[0.3]])
    point = x[0].numpy()
    radii = np.arange(1, 1000, dtype=np.float32) / np.float32(2048)
    wrong = max(float(r) for r in radii if verified(model, point - r, point + r))
    # The ReLU is on wherever the class changes, so that the affine net has the same distance.
    halves = halves_of(nn.Sequential(first, last), 1)
    check_fooled(model, x, halves, dict.fromkeys(NORMS, wrong))
