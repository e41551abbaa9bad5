"""Nets that several tests use, and the shared reference nets."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from holdfast.sources.demo import GroupSort


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class MaxMin(nn.Module):
    """MaxMin written with chunk, max, min and cat, as many write it."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return torch.cat([torch.max(a, b), torch.min(a, b)], dim=1)


_PLAIN = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "flatten": nn.Flatten,
}


def _module(spec: dict) -> nn.Module:
    kind = spec["type"]
    if kind == "residual":
        return Residual(*map(_module, spec["body"]))
    if kind == "linear":
        fan_in = spec.get("in", spec.get("in_features"))
        fan_out = spec.get("out", spec.get("out_features"))
        return nn.Linear(fan_in, fan_out, bias=spec.get("bias", True))
    if kind in ("conv", "conv2d"):
        names = (("in", "in_channels"), ("out", "out_channels"), ("k", "kernel_size"))
        sizes = [spec.get(short, spec.get(long)) for short, long in names]
        return nn.Conv2d(*sizes, spec.get("stride", 1), spec.get("pad", spec.get("padding", 0)))
    return GroupSort(spec["group_size"]) if kind == "groupsort" else _PLAIN[kind]()


def crossed(first: Iterable, *others: Iterable) -> list:
    """Return all combinations as parameters of a test, of which each first value has one fast.

    The others take turns, so that every value of each is in the fast suite; the rest is slow.
    """
    rests = list(itertools.product(*others))
    return [
        pytest.param(one, *rest, marks=[] if turn % len(rests) == at else [pytest.mark.slow])
        for turn, one in enumerate(first)
        for at, rest in enumerate(rests)
    ]


def load_net(stem: Path) -> tuple[nn.Sequential, dict]:
    """Return a shared net, in the type of its weights, and its description."""
    spec = json.loads(Path(f"{stem}.json").read_text())
    layers = spec.get("layers", spec.get("arch"))
    state = load_file(f"{stem}.safetensors")
    net = nn.Sequential(*map(_module, layers)).to(next(iter(state.values())).dtype)
    net.load_state_dict(state)
    return net.eval(), spec


def exact_values(spec: dict) -> dict:
    """Return the published exact constants by norm, wherever a description keeps them."""
    text = json.dumps(spec)
    start = text.index('"exact_local_lipschitz": ') + len('"exact_local_lipschitz": ')
    return json.JSONDecoder().raw_decode(text[start:])[0]
