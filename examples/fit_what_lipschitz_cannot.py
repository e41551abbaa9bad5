"""A target that no 1-Lipschitz network fits, and that one trained for knowledge continuity does.

Points on a line belong to class 0 or 1 in stripes 0.2 wide. Where the logits change by at most 1
per unit of input, no class can lead by more than 0.1 times sqrt(2) all over its stripe: the cross
entropy stays near log 2. Knowledge continuity asks nothing of the input's metric: the penalty
steadies a hidden layer, and the fit remains (Sun et al., NeurIPS 2024, propositions 4.3 and 4.4).
Each kind is trained from several seeds; volatility is that of the last hidden layer on fresh
points, over all pairs and over the nearest ones, in units of the mean distance.

    python examples/fit_what_lipschitz_cannot.py [--figure stripes.png]
"""

import math
import statistics
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional

import holdfast
from holdfast.train import KnowledgePenalty

WIDTH, STRIPE, STEPS, SEEDS, FRESH = 64, 0.2, 1500, 3, 4000
WEIGHT = 2.0


def points(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return points on [-1, 1] and the stripe they lie in."""
    x = 2 * torch.rand(n, 1, generator=torch.Generator().manual_seed(seed)) - 1
    return x, (x[:, 0] / STRIPE).floor().long() % 2


def network(seed: int, bounded: bool) -> nn.Sequential:
    """Return a network of sines; bounded: every layer, and so the whole, is 1-Lipschitz."""
    torch.manual_seed(seed)
    layers = [nn.Linear(1, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)]
    if bounded:
        layers = [nn.utils.parametrizations.spectral_norm(layer) for layer in layers]
    else:
        layers[0].weight.data.mul_(15)  # waves as short as the stripes
    return nn.Sequential(layers[0], Sine(), layers[1], Sine(), layers[2])


class Sine(nn.Module):
    """sin(x), which is 1-Lipschitz."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the sine of each entry."""
        return x.sin()


def constant_upper(model: nn.Sequential) -> float:
    """Return a proved Lipschitz constant: the product of the layers', as sines have 1."""
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    row = [torch.zeros(1, layer.in_features) for layer in linear]
    bounds = [holdfast.lipschitz(*pair, seconds=0) for pair in zip(linear, row, strict=True)]
    return math.prod(bound.upper for bound in bounds)


def trained(model: nn.Sequential, weight: float | None) -> nn.Sequential:
    """Train a model, with the penalty on its last hidden layer where a weight is given."""
    penalty = None if weight is None else KnowledgePenalty(model, ["3"], weight)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(STEPS):
        x, y = points(128, 1000 + step)
        logits = model(x)
        loss = functional.cross_entropy(logits, y)
        if penalty is not None:
            loss = loss + penalty(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if penalty is not None:
        penalty.close()
    for layer in model:
        if hasattr(layer, "parametrizations"):
            nn.utils.parametrize.remove_parametrizations(layer, "weight")
    return model.eval()


def measured(model: nn.Sequential) -> tuple[float, float, float, float, float]:
    """Return cross entropy, accuracy, volatility of all and of near pairs, and the constant."""
    data = points(FRESH, 1)
    with torch.no_grad():
        logits = model(data[0])
    loss = float(functional.cross_entropy(logits, data[1]))
    accuracy = float((logits.argmax(1) == data[1]).float().mean())
    known = holdfast.knowledge(model, data, ["3"])
    near = known.near["3"].value * known.scale["3"]
    return loss, accuracy, known.normalised["3"].value, near, constant_upper(model)


@torch.no_grad()
def draw(models: dict[str, nn.Module], path: str) -> None:
    """Draw the probability of class 1 along the line."""
    import altair as alt

    x = torch.linspace(-1, 1, 401)[:, None]
    rows = [
        {"x": float(at), "chance": float(chance), "network": name}
        for name, model in models.items()
        for at, chance in zip(x[:, 0], model(x).softmax(1)[:, 1], strict=True)
    ]
    chart = alt.Chart(alt.Data(values=rows)).mark_line()
    chart.encode(
        alt.X("x:Q"), alt.Y("chance:Q", title="probability of class 1"), row="network:N"
    ).properties(width=600, height=120).save(path)


def main() -> None:
    """Train the three kinds and print how well and how steadily each of them fits."""
    torch.set_num_threads(1)
    kinds = {
        "1-Lipschitz": (True, None),
        "plain": (False, None),
        "knowledge continuous": (False, WEIGHT),
    }
    columns = ("cross entropy", "accuracy", "volatility", "of near pairs", "constant at most")
    print(f"{'mean of seeds':22}" + "".join(f"{column:>18}" for column in columns))
    first, found = {}, {}
    for name, (bounded, weight) in kinds.items():
        models = [trained(network(seed, bounded), weight) for seed in range(SEEDS)]
        first[name], found[name] = models[0], [measured(model) for model in models]
        means = map(statistics.mean, zip(*found[name], strict=True))
        print(f"{name:22}" + "".join(f"{mean:18.3f}" for mean in means))
    for column in (2, 3):
        ratios = [
            f"{ours[column] / theirs[column]:.2f}"
            for ours, theirs in zip(found["knowledge continuous"], found["plain"], strict=True)
        ]
        print(f"{columns[column]}, knowledge continuous / plain, by seed: {', '.join(ratios)}")
    if "--figure" in sys.argv:
        draw(first, sys.argv[sys.argv.index("--figure") + 1])


if __name__ == "__main__":
    main()
