"""Odd arguments of every verb and method, on a model that is in order."""

import contextlib
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from tests.odd.arguments import odd_labels, odd_pairs, odd_regions, odd_rows, odd_values
from torch import Tensor, nn

import holdfast

Calls = dict[str, Callable[[], Any]]

ARGUMENTS = {
    "certify": ("model", "rows", "labels", "norm", "method", "semantics"),
    "attack": ("model", "rows", "labels", "norm", "epsilon"),
    "lipschitz": ("model", "rows", "norm", "region", "seconds", "tolerance"),
    "conditions": ("model", "rows", "labels", "norm", "metric"),
    "descent": ("model", "rows", "labels", "loss", "step", "momentum", "batch_size"),
    "knowledge": (
        *("model", "rows", "labels", "layers", "loss", "distance", "kernel", "clip", "pairs"),
        *("near", "grid", "seed", "pooling", "reference", "perturbations"),
    ),
    "capture": ("model", "rows"),
}
"""What each verb is asked with in odd forms."""


@dataclass(frozen=True)
class Bench:
    """A model with rows x [6, 4] and labels y [6], and what was found of them."""

    net: nn.Module
    x: Tensor
    y: Tensor
    certificates: holdfast.Certificates
    knowledge: holdfast.Knowledge
    attacks: holdfast.Attacks
    graph: holdfast.Graph


@cache
def bench() -> Bench:
    """Return what the odd calls are about."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    x = torch.randn(6, 4)
    y = net(x).argmax(1)
    return Bench(
        net,
        x,
        y,
        holdfast.certify(net, x, y, method="global"),
        holdfast.knowledge(net, (x, y)),
        holdfast.attack(net, x, y, epsilon=0.1),
        holdfast.capture(net, x),
    )


def ask(verb: str, **odd: Any) -> Any:
    """Ask a verb about the model, with some arguments replaced."""
    about = bench()
    given = {"model": about.net, "rows": about.x, "labels": about.y}
    model, x, y = (odd.pop(name, usual) for name, usual in given.items())
    usual: dict[str, Any] = {
        "certify": {"method": "global"},
        "attack": {"epsilon": 0.02},
        "lipschitz": {"seconds": 0.0},
        "descent": {"loss": "cross_entropy"},
    }
    odd = usual.get(verb, {}) | odd
    if verb == "descent":
        return holdfast.descent(model, odd.pop("loss"), x, y, **odd)
    if verb == "knowledge":
        return holdfast.knowledge(model, (x, y), **odd)
    rows = (x,) if verb in ("lipschitz", "capture") else (x, y)
    return getattr(holdfast, verb)(model, *rows, **odd)


def monitored(**odd: Any) -> Any:
    """Return the measurements of one step of a monitor with odd arguments."""
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with holdfast.DescentMonitor(odd.pop("optimizer", optimizer), **odd) as monitor:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(bench().x), bench().y).backward()
        optimizer.step()
    return monitor.measurements


METHODS: dict[str, Callable[[Bench, Any], Any]] = {
    "verified_accuracy": lambda b, v: b.certificates.verified_accuracy(v),
    "output_change": lambda b, v: b.certificates.output_change(v),
    "loss_change": lambda b, v: b.certificates.loss_change(v),
    "Certificates.load": lambda b, v: holdfast.Certificates.load(v),
    "Attacks.load": lambda b, v: holdfast.Attacks.load(v),
    "accuracy_under_attack": lambda b, v: b.attacks.accuracy_under_attack(v),
    "Ball center": lambda b, v: holdfast.Ball(v, 1.0),
    "Ball radius": lambda b, v: holdfast.Ball(b.x[0], v),
    "Ball norm": lambda b, v: holdfast.Ball(b.x[0], 1.0, v),
    "Box low": lambda b, v: holdfast.Box(v, b.x[0]),
    "Box high": lambda b, v: holdfast.Box(b.x[0], v),
    "worst layer": lambda b, v: b.knowledge.worst(v),
    "worst k": lambda b, v: b.knowledge.worst("0", v),
    "certificate layer": lambda b, v: b.knowledge.certificate(v, 1.0, 1.0),
    "certificate delta": lambda b, v: b.knowledge.certificate("0", v, 1.0),
    "certificate eta": lambda b, v: b.knowledge.certificate("0", 1.0, v),
    "certificate confidence": lambda b, v: b.knowledge.certificate("0", 1.0, 1.0, v),
    "certificate method": lambda b, v: b.knowledge.certificate("0", 1.0, 1.0, 0.9, v),
    "certificate anchor": lambda b, v: b.knowledge.certificate("0", 1.0, 1.0, 0.9, "anchor", v),
    "certificate front": lambda b, v: b.knowledge.certificate("0", 1.0, 1.0, front_upper=v),
    "frontier layer": lambda b, v: b.knowledge.frontier(v),
    "frontier confidence": lambda b, v: b.knowledge.frontier("0", v),
    "frontier method": lambda b, v: b.knowledge.frontier("0", 0.9, v),
    "volatility layer": lambda b, v: b.knowledge.volatility_certificate(v),
    "volatility confidence": lambda b, v: b.knowledge.volatility_certificate("0", v),
    "volatility front": lambda b, v: b.knowledge.volatility_certificate("0", 0.9, v),
    "cut layer": lambda b, v: b.graph.cut(v),
    "monitor every": lambda b, v: monitored(every=v),
    "monitor optimizer": lambda b, v: monitored(optimizer=v),
    "monitor loss": lambda b, v: monitored(loss=v, every=1),
    "monitor out": lambda b, v: monitored(out=v),
}
"""Calls with one odd argument."""

DATA: dict[str, Callable[[Bench, Any], Any]] = {
    "data": lambda b, v: holdfast.knowledge(b.net, v),
    "reference": lambda b, v: holdfast.knowledge(b.net, (b.x, b.y), reference=v),
}
"""Calls that read rows with labels."""

GROUPS = [f"{verb}: {one}" for verb, names in ARGUMENTS.items() for one in names]
GROUPS += [*METHODS, *DATA]


def calls(group: str) -> Calls:
    """Return the odd calls of a group, with arguments of their own."""
    about, argument = bench(), group.partition(": ")[2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch and numpy, about the oddest of them
        values = odd_values()
        if argument == "rows":
            values |= odd_rows(about.x)
        elif argument == "labels":
            values |= odd_labels(about.y)
        elif argument == "region":
            values |= odd_regions(about.x[0])
        elif group in DATA:
            values |= odd_pairs(about.x, about.y)
    if argument:
        verb = group.partition(": ")[0]
        return {name: partial(ask, verb, **{argument: value}) for name, value in values.items()}
    call = partial((DATA | METHODS)[group], about)
    if group == "monitor loss":  # these two are called, and fail in the user's own step
        del values["a function"], values["a module"]
    return {name: partial(call, value) for name, value in values.items()}


def saves(folder: pathlib.Path) -> Calls:
    """Return calls that write to odd paths, inside a folder alone."""
    about = bench()
    paths = {
        "a folder": folder,
        "no such folder": folder / "a" / "b.json",
        "below a file": folder / "file" / "b.json",
        "a long name": folder / ("a" * 300),
        "a zero byte": f"{folder}/a\0b",
        "no path": None,
        "a number": 3.5,
    }
    (folder / "file").write_text("{}")
    results = {"certificates": about.certificates, "attacks": about.attacks}
    every: dict[str, Callable[[Any], Any]] = {
        name: found.save for name, found in results.items()
    } | {"knowledge": about.knowledge.save, "monitor": lambda v: monitored(out=v)}
    return {
        f"{name} to {place}": partial(save, path)
        for name, save in every.items()
        for place, path in paths.items()
    }


@contextlib.contextmanager
def _double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS: Mapping[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "double by default": _double_by_default,
    "meta by default": lambda: torch.device("meta"),
}
"""What a caller may have set around a call."""
