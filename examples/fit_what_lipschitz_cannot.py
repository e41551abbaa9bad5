"""A target that no 1-Lipschitz network fits, and that one trained for knowledge continuity does.

Points on a line belong to class 0 or 1 in stripes 0.2 wide. Where the logits change by at most 1
per unit of input, no class can lead by more than 0.1 times sqrt(2) all over its stripe: the cross
entropy stays near log 2. Knowledge continuity asks nothing of the input's metric: the penalty
steadies a hidden layer, and the fit remains (Sun et al., NeurIPS 2024, propositions 4.3 and 4.4).

    python examples/fit_what_lipschitz_cannot.py [--figure stripes.png]
"""

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional

import holdfast
from holdfast.train import KnowledgePenalty

WIDTH, STRIPE, STEPS = 64, 0.2, 1500


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
    return model.eval()


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
    """Train three networks and print how well and how steadily each of them fits."""
    torch.set_num_threads(1)
    models = {
        "1-Lipschitz": trained(network(0, bounded=True), None),
        "plain": trained(network(0, bounded=False), None),
        "knowledge continuous": trained(network(0, bounded=False), 1.0),
    }
    data = points(1000, 1)
    print(f"{'':22}{'cross entropy':>15}{'accuracy':>10}{'volatility of layer 3':>24}")
    for name, model in models.items():
        with torch.no_grad():
            logits = model(data[0])
        loss = float(functional.cross_entropy(logits, data[1]))
        accuracy = float((logits.argmax(1) == data[1]).float().mean())
        volatility = f"{holdfast.knowledge(model, data, ['3']).normalised['3']:.3f}"
        print(f"{name:22}{loss:15.3f}{accuracy:10.3f}{volatility:>24}")
    if "--figure" in sys.argv:
        draw(models, sys.argv[sys.argv.index("--figure") + 1])


if __name__ == "__main__":
    main()
