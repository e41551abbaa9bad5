"""Draw the pictures of the documentation: one for each idea on its first page.

Run with `make docs`, or `python scripts/pictures.py FOLDER`.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import holdfast
from holdfast.sources.demo import demo_data, demo_model


def draw(folder: Path) -> None:
    """Write the four pictures into a folder, as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    plain, bounded = demo_model("digits-plain"), demo_model("digits-bounded")
    inputs, labels = demo_data("digits")
    rows = (inputs[:100], labels[:100])
    torch.manual_seed(0)
    untrained = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    results = {
        "lipschitz": holdfast.lipschitz(plain, inputs, seconds=5),
        "radius": holdfast.certify(bounded, *rows),
        "volatility": holdfast.knowledge(bounded, (inputs, labels)),
        "step": holdfast.descent(untrained, "cross_entropy", inputs, labels, step=0.5),
    }
    for name, result in results.items():
        result.plot().save(folder / f"{name}.svg")


if __name__ == "__main__":
    draw(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures"))
