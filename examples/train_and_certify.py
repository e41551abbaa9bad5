"""Train two small nets on the built-in digits, one with a bound, and compare their radii."""

import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

import holdfast
from holdfast.sources.demo import GroupSort, demo_data

train_inputs, train_labels = demo_data("digits", "train")
inputs, labels = demo_data("digits", "test")


def plain() -> nn.Module:
    """Return a ReLU net without any bound."""
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def bounded() -> nn.Module:
    """Return a net whose layers before the last change no distance by more than a factor of 1."""
    return nn.Sequential(
        orthogonal(nn.Linear(64, 64)),
        GroupSort(),
        orthogonal(nn.Linear(64, 64)),
        GroupSort(),
        nn.Linear(64, 10),
    )


for build in (plain, bounded):
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train_inputs), train_labels).backward()
        optimizer.step()
    certificates = holdfast.certify(model.eval(), inputs, labels, norm=2)
    print(
        f"{build.__name__}: {certificates.clean_accuracy:.1%} right, "
        f"median radius {certificates.radius.median():.3f}, "
        f"{certificates.verified_accuracy(0.3):.1%} proved within 0.3"
    )
