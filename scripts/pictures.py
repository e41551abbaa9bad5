"""Draw the pictures of the README and of the documentation.

Run with `make pictures`, or `python -m scripts.pictures FOLDER`.
"""

import re
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import holdfast
from holdfast.audits.audit import audit_models
from holdfast.audits.study import AuditOptions
from holdfast.sources.data import load_data
from holdfast.sources.demo import DEMO_MODELS, demo_data, demo_model
from holdfast.views import charts


def picture(result: object) -> str:
    """Return the chart of an answer as an SVG that is light or dark as its reader's system is.

    Args:
        result: What a verb returned.
    """
    light, dark = charts.palettes()
    first, second = (
        "".join(f"--{name}:{at};" for name, at in one.items()) for one in (light, dark)
    )
    style = f"<style>:root{{{first}}}@media(prefers-color-scheme:dark){{:root{{{second}}}}}</style>"

    def framed(tag: re.Match[str]) -> str:
        """Return the opening tag with a margin, the colours, and a ground to stand on."""
        width, height = (int(size) + 24 for size in tag.groups())
        size = f'width="{width}" height="{height}" viewBox="-12 -12 {width} {height}"'
        ground = f'<rect x="-12" y="-12" width="{width}" height="{height}" fill="var(--card)"/>'
        return f"{size}>{style}{ground}"

    opened = r'width="(\d+)" height="(\d+)" viewBox="[\d ]+">'
    svg = re.sub(opened, framed, charts.drawing(result), count=1)
    # Programs that know no variables, or that take styles out, draw it in the light colours.
    return re.sub(r"var\(--([\w-]+)\)", lambda name: f"var(--{name[1]}, {light[name[1]]})", svg)


def draw(folder: Path) -> None:
    """Write the pictures into a folder, as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    plain, bounded = demo_model("digits-plain"), demo_model("digits-bounded")
    inputs, labels = demo_data("digits")
    rows = (inputs[:100], labels[:100])
    torch.manual_seed(0)
    untrained = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    with tempfile.TemporaryDirectory() as runs:
        models = [holdfast.load_model(f"demo:{name}") for name in DEMO_MODELS]
        demo = audit_models(models, load_data("demo:digits"), runs, AuditOptions())
    results = {
        "demo": demo,
        "lipschitz": holdfast.lipschitz(plain, inputs, seconds=10),
        "radius": holdfast.certify(bounded, *rows),
        "volatility": holdfast.knowledge(bounded, (inputs, labels)),
        "step": holdfast.descent(untrained, "cross_entropy", inputs, labels, step=0.5),
    }
    for name, result in results.items():
        (folder / f"{name}.svg").write_text(picture(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    draw(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures"))
