"""One answer of every kind, of a demo model on its data, and with names that would be code."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import torch
from tests.report.conftest import example
from torch import nn

import holdfast
from holdfast.audits.audit import AuditReport
from holdfast.sources.demo import demo_data

HOSTILE = (
    "</td><script>window.stolen=1</script>\n\x1b[2Jline\u2028two \u202eright to left",
    "層" * 60,
    "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}" * 50 + '" onload="window.stolen=1',
    "]]>--><svg/onload=window.stolen=1>{{ 7*7 }}" + "x" * 300,
    "datum.value'] || [datum['",
)


@functools.cache
def answers() -> dict[str, Any]:
    """Return an answer of every kind, by its name."""
    inputs, labels = (rows[:20] for rows in demo_data())
    loaded = holdfast.load_model("demo:digits-bounded")
    model, rows = loaded.model, (inputs, labels)
    known = holdfast.knowledge(model, rows)
    layer = known.layers[1]
    step = holdfast.descent(model, "cross_entropy", *rows)
    certificates = holdfast.certify(model, *rows, method="local")
    one_output = nn.Sequential(nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 1)).eval()
    return {
        "loaded model": loaded,
        "graph": holdfast.capture(model, inputs[:1]),
        "bracket": holdfast.lipschitz(model, inputs, seconds=0.2),
        "certificates": certificates,
        "one certificate": certificates[5],
        "certificates of targets": holdfast.certify(one_output, inputs, torch.randn(20)),
        "attacks": holdfast.attack(model, *rows, epsilon=0.5),
        "nearest attacks": holdfast.attack(model, *rows),
        "conditions": holdfast.conditions(model, inputs[:4], labels[:4], seconds=0.1),
        "no metric": holdfast.conditions(model, labels[:, None], labels),
        "knowledge": known,
        "estimate": known.volatility[layer],
        "frontier": known.frontier(layer),
        "certificate of knowledge": known.certificate(layer, 1.0, 0.5),
        "certificate of volatility": known.volatility_certificate(layer),
        "descent": step,
        "smoothness": step.smoothness,
        "monitor": monitored(),
        "substitutions": certified_texts(TEXTS),
        "texts": holdfast.attack_texts(counting, None, TEXTS, [1, 1], {"good": ["fine"]}),
        "audit": AuditReport(example(), Path("audit.json"), Path("report.html")),
    }


TEXTS = ["a good film", "a good, good plot"]


def counting(texts: list[str]) -> list[list[float]]:
    """Return logits for whether "good" stands in a text."""
    return [[0.0, text.count("good") - 0.5] for text in texts]


def certified_texts(texts: list[str]) -> holdfast.SubstitutionCertificates:
    """Return certificates of texts, whose words may stand for each other."""
    table = {"good": ["fine"], "film": [*HOSTILE, "movie"]}
    return holdfast.certify_substitutions(counting, None, texts, [1] * len(texts), table)


def monitored() -> holdfast.DescentMonitor:
    """Return the monitor of a short run."""
    weight = nn.Parameter(torch.tensor([3.0, 1.0]))
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def loss() -> torch.Tensor:
        return (weight * torch.tensor([1.0, 2.0])).square().sum()

    with holdfast.DescentMonitor(optimizer, every=2, loss=loss) as monitor:
        for _ in range(20):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    return monitor


@functools.cache
def hostile_answers() -> dict[str, Any]:
    """Return answers whose names would be code, end a line or be very wide."""
    good = answers()
    bracket, known, graph = good["bracket"], good["knowledge"], good["graph"]
    names = dict(zip(known.layers, HOSTILE * 9, strict=False))
    names |= {layer: f"{name}{k}" for k, (layer, name) in enumerate(names.items())}
    by_layer = {
        field.name: {names[layer]: entry for layer, entry in getattr(known, field.name).items()}
        for field in dataclasses.fields(known)
        if isinstance(getattr(known, field.name), dict)
    }
    gains = [
        dataclasses.replace(layer, path=name, op=name, gain=2.0 + k)
        for k, (layer, name) in enumerate(zip(bracket.layers, HOSTILE * 9, strict=False))
    ]
    said = {"lower_by": HOSTILE[0], "upper_by": HOSTILE[1], "assumptions": HOSTILE}
    layers = {name: graph.output for name in HOSTILE}
    document = dict(good["audit"].document)
    document["data"] = document["data"] | {"name": HOSTILE[0]}
    document["subjects"] = [document["subjects"][0] | {"name": name} for name in HOSTILE]
    words = {"guarantee": HOSTILE[0], "reason": HOSTILE * 4, "method": HOSTILE * 4}
    return {
        "bracket": dataclasses.replace(bracket, layers=tuple(gains), **said),
        "certificates": dataclasses.replace(good["certificates"], **words),
        "attacks": dataclasses.replace(good["attacks"], reason=HOSTILE * 4),
        "conditions": dataclasses.replace(good["conditions"], metric=HOSTILE[2], advice=HOSTILE[0]),
        "knowledge": dataclasses.replace(
            known, layers=tuple(names.values()), notes=HOSTILE, loss=HOSTILE[1], **by_layer
        ),
        "frontier": dataclasses.replace(good["frontier"], layer=HOSTILE[0]),
        "certificate of knowledge": dataclasses.replace(
            good["certificate of knowledge"], layer=HOSTILE[1], statement=HOSTILE[0], why=HOSTILE
        ),
        "certificate of volatility": dataclasses.replace(
            good["certificate of volatility"], layer=HOSTILE[3], vacuous=True, why=HOSTILE
        ),
        "graph": dataclasses.replace(graph, layers=layers, fingerprint=HOSTILE[0]),
        "loaded model": dataclasses.replace(
            good["loaded model"],
            spec=HOSTILE[0],
            description=HOSTILE[1],
            units={"mean": HOSTILE[2]},
        ),
        "substitutions": certified_texts([f"good film {word}" for word in HOSTILE]),
        "texts": dataclasses.replace(good["texts"], reason=HOSTILE[:2], adversarial=HOSTILE[:2]),
        "audit": dataclasses.replace(good["audit"], document=document),
    }
