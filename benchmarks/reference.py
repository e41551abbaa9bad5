"""The nets of the benchmarks: the shared reference nets by name, and random ones.

    holdfast lipschitz module:benchmarks.reference:digits_32_trained normal:64

Run from the root of a clone with `PYTHONPATH=.`; the folder is HOLDFAST_SHARED or ../shared.
"""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import torch
from tests.nets import load_net
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {
    "cnn_digits_trained": (1, 8, 8),
    "tiny_2-8-8-2_moons": (2,),
    "mnist_256_trained": (784,),
}


def shared() -> Path:
    """Return the folder of the shared nets, or say how to name it."""
    folder = Path(os.environ.get("HOLDFAST_SHARED", ROOT.parent / "shared")) / "nets"
    if not folder.is_dir():
        raise SystemExit(f"no reference nets at {folder}: set HOLDFAST_SHARED")
    return folder


def reference_net(name: str) -> nn.Module:
    """Return a net of the folder, or of its part `lipschitz`, in the type of its weights."""
    folder = shared()
    inner = folder / "lipschitz"
    return load_net((inner if (inner / f"{name}.json").exists() else folder) / name)[0]


def gaussian(width: int, depth: int, inputs: int = 64) -> nn.Sequential:
    """Return a random ReLU net with `depth` hidden layers and 10 outputs, in float64."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise([inputs, *[width] * depth, 10]):
        layers += [nn.Linear(fan_in, fan_out, dtype=torch.float64), nn.ReLU()]
        layers[-2].weight.data.normal_(0, fan_in**-0.5)
    return nn.Sequential(*layers[:-1])


def __getattr__(name: str) -> Callable[[], nn.Module]:
    """Give every net a factory of its name, with `_` for what names cannot hold."""
    known = [path.stem for part in (".", "lipschitz") for path in (shared() / part).glob("*.json")]
    for stem in known:
        if "".join(c if c.isalnum() else "_" for c in stem) == name:
            return lambda: reference_net(stem)
    raise AttributeError(f"no reference net {name!r}")
