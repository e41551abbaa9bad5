"""Train the same net below, at and above the largest safe step, and watch what happens."""

import warnings

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import holdfast
from holdfast.sources.demo import demo_data

inputs, labels = demo_data("digits", "train")


def build() -> nn.Module:
    """Return the same small net every time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


safe = holdfast.descent(build(), cross_entropy, inputs, labels).largest_safe_step
print(f"largest safe step of the untrained net: {safe:.3g}")

for name, share in (("below", 0.5), ("at", 1.0), ("above", 8.0)):
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=share * safe)

    def loss(model: nn.Module = model) -> torch.Tensor:
        """Return the loss on all rows."""
        return cross_entropy(model(inputs), labels)

    with (
        warnings.catch_warnings(record=True) as told,
        holdfast.DescentMonitor(optimizer, every=5, loss=loss) as monitor,
    ):
        warnings.simplefilter("always")
        for _ in range(100):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    print(
        f"{name} ({share:g} of it): loss {loss().item():.3f}, "
        f"{monitor.improved:.0%} of the measured steps lowered it"
    )
    for warning in told:
        print(f"  {warning.message}")
