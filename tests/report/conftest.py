"""An audit as the demo writes it: a plain net and one trained with a bounded constant."""

import math
import random
from typing import Any

import pytest

FONT = {
    0: "01110 10001 10001 10001 10001 10001 01110",
    1: "00100 01100 00100 00100 00100 00100 01110",
    2: "01110 10001 00001 00110 01000 10000 11111",
    3: "01110 10001 00001 00110 00001 10001 01110",
    4: "00010 00110 01010 10010 11111 00010 00010",
    5: "11111 10000 11110 00001 00001 10001 01110",
    6: "00110 01000 10000 11110 10001 10001 01110",
    7: "11111 00001 00010 00100 01000 01000 01000",
    8: "01110 10001 10001 01110 10001 10001 01110",
    9: "01110 10001 10001 01111 00001 00010 01100",
}
ROWS = 360
EPSILON = 0.25
DISTANCES = [
    {"distance": 0.009995, "why": "1%"},
    {"distance": 36 / 255, "why": "36/255"},
    {"distance": EPSILON, "why": "asked"},
]


def digit(label: int, seed: int) -> list[float]:
    """A noisy 8 x 8 picture of a digit, values in [0, 1]."""
    noise = random.Random(seed)
    pixels = [[0.05 * noise.random() for _ in range(8)] for _ in range(8)]
    for y, line in enumerate(FONT[label].split()):
        for x, bit in enumerate(line):
            if bit == "1":
                pixels[y][x + 1] = 0.65 + 0.35 * noise.random()
    return [round(value, 3) for line in pixels for value in line]


def curve(scale: float, clean: float, widest: float) -> list[dict[str, Any]]:
    """Share proved against radius, falling smoothly from the clean accuracy to zero."""
    points = []
    for step in range(41):
        radius = widest * step / 40
        proved = int(ROWS * clean * math.exp(-((radius / scale) ** 2.2)))
        points.append({"radius": radius, "proved": proved / ROWS, "count": proved})
    return points


def surviving(scale: float, clean: float) -> list[dict[str, Any]]:
    """Share that survives attacks against distance, above every curve of half the scale."""
    steps = [scale * step / 20 for step in range(61)]
    counts = [int(ROWS * clean * math.exp(-((radius / scale) ** 2.2))) for radius in steps]
    return [
        {"radius": radius, "surviving": count / ROWS, "count": count}
        for radius, count in zip(steps, counts, strict=True)
    ]


def shares(*counts: int) -> list[dict[str, Any]]:
    """Shares at the distances of the audit, with intervals about as wide as they would be."""
    return [
        {
            "distance": one["distance"],
            "share": count / ROWS,
            "count": count,
            "low": max(0.0, count / ROWS - 0.04),
            "high": min(1.0, count / ROWS + 0.04),
        }
        for one, count in zip(DISTANCES, counts, strict=True)
    ]


def attacks(scale: float, clean: float, accuracy: float) -> dict[str, Any]:
    return {
        "norm": "l2",
        "accuracy": accuracy,
        "median_distance": scale,
        "median_interval": [0.9 * scale, 1.1 * scale],
        "shares": shares(350, 300, int(ROWS * accuracy)),
        "reasons": {"found": int(ROWS * clean), "misclassified": ROWS - int(ROWS * clean)},
        "curve": surviving(scale, clean),
        "statement": "An attack is an input that the model does not give the label.",
    }


def conditions(bounded: str, radius: float) -> dict[str, Any]:
    return {
        "metric": "natural",
        "bounded": bounded,
        "ratio": 1.3,
        "median_radius": radius,
        "resolution": 0.9995,
        "quantisation": 0.0625,
        "norm": "l2",
        "advice": f"What follows from {bounded} radii.",
    }


def attacked(row: dict[str, Any]) -> dict[str, Any]:
    pixels = [min(1.0, pixel + 0.02) for pixel in row["pixels"]]
    change = [b - a for a, b in zip(row["pixels"], pixels, strict=True)]
    attack = {"distance": 2 * row["radius"], "predicted": (row["label"] + 1) % 10}
    return row | {"attack": attack | {"pixels": pixels, "change": change}}


def answers(radii: list[float], seed: int) -> list[dict[str, Any]]:
    labels = [(seed + 3 * place) % 10 for place in range(len(radii))]
    return [
        {
            "row": (seed * 37 + 41 * place) % ROWS,
            "label": label,
            "predicted": label if place or seed > 5 else (label + 5) % 10,
            "radius": radius,
            "margin": 30 * radius,
            "pixels": digit(label, seed * 100 + place),
        }
        for place, (label, radius) in enumerate(zip(labels, radii, strict=True))
    ]


def estimates(values: list[float], spread: float) -> dict[str, dict[str, float]]:
    return {
        str(layer): {
            "value": v,
            "low": v * (1 - spread),
            "high": v * (1 + spread),
            "level": 0.95,
        }
        for layer, v in enumerate(values)
    }


def pair(row: int, layer: int, place: int) -> dict[str, Any]:
    """A volatile row and the partner that it is held against."""
    change, distance = -3.1 / (1 + place), 0.7 + 0.1 * layer
    return {
        "row": row,
        "value": 0.5,
        "label": row % 10,
        "neighbour": row + 1,
        "slope": -change / distance,
        "distance": distance,
        "change": change,
        "neighbour_label": (row + 1) % 10,
    }


def frontier(layer: str, bends: float) -> dict[str, Any]:
    """A map of three distances and two loss changes, of which two cells say nothing."""
    return {
        "method": "nearest",
        "confidence": 0.95,
        "deltas": [1.25, 2.5 + bends, None],
        "etas": [0.0, 0.125],
        "anchors": 180,
        "trials": 180,
        "multiplicity": 60,
        "near": [0, 60, 180],
        "observed": [[0, 0], [58, 4], [171, 90]],
        "probability": [[0.0381, 0.0381], [0.43, 0.0852], [0.9931, 0.6214]],
        "conditional": [[1.0, 1.0], [0.99951, 0.22761 / bends], [0.9931, 0.6214]],
        "vacuous": [[True, True], [False, False], [False, False]],
        "why": [[["nothing lies within delta"]] * 2, [[], []], [[], []]],
        "statement": f"In layer {layer!r}: {{delta}}, {{eta}}, {{probability}}, {{conditional}}, "
        "{near}, {observed}.",
    }


def knowledge(values: list[float]) -> dict[str, Any]:
    scales = [2.6, 3.4, 5.2, 7.9, 11.0]
    raw = [value / scale for value, scale in zip(values, scales, strict=True)]
    return {
        "loss": "cross_entropy",
        "distance": "euclidean",
        "n": ROWS,
        "layers": [str(layer) for layer in range(5)],
        "scale": {str(layer): scale for layer, scale in enumerate(scales)},
        "rank": sorted(map(str, range(5)), key=lambda layer: -values[int(layer)]),
        "volatility": estimates(raw, 0.16),
        "normalised": estimates(values, 0.14),
        "same_label": {str(layer): 0.6 * value for layer, value in enumerate(raw)},
        "other_label": {str(layer): 1.05 * value for layer, value in enumerate(raw)},
        "collisions": {str(layer): 0.0 for layer in range(5)},
        "near": estimates([1.3 * value for value in raw], 0.3),
        "by_class": {
            str(layer): estimates([value, 0.8 * value, 1.4 * value], 0.2)
            for layer, value in enumerate(raw)
        },
        "worst": {
            str(layer): [pair(11 * layer + 23 * place, layer, place) for place in range(6)]
            for layer in range(5)
        },
        "rows": {
            str(row): {"pixels": digit(row % 10, row)}
            for layer in range(5)
            for place in range(6)
            for row in (11 * layer + 23 * place, 11 * layer + 23 * place + 1)
        },
        "frontier": {str(layer): frontier(str(layer), 1 + layer / 8) for layer in range(5)},
        "limits": "It is not a statement about all inputs within delta.",
        "statement": "Averages over all pairs of the 360 inputs; the intervals hold for inputs "
        "drawn like these, each layer on its own.",
    }


def step(safe: float, fall: float) -> dict[str, Any]:
    """A training step that falls a little more than it promises."""

    def change(step: float) -> float:
        return -fall * (step - step**2 / safe) * 4 / safe

    path = [1.25 * safe * place / 40 for place in range(41)]
    return {
        "step": 0.01,
        "momentum": 0.0,
        "effective_step": 0.01,
        "loss": 1.4 * fall + 0.1,
        "gradient_norm": 0.588,
        "smoothness": {"along_step": 2 / safe, "top_eigenvalue": 1.7 / safe},
        "largest_safe_step": safe,
        "safe_along_step": 1.25 * safe,
        "predicted_change": change(0.01),
        "actual_change": change(0.01) * 1.02,
        "holds": True,
        "improved": True,
        "noise": None,
        "noise_cost": None,
        "path": [
            {"step": s, "predicted": change(s), "actual": change(s) - 0.4 * fall * (s / safe) ** 2}
            for s in path
        ],
        "parameters": 26122,
        "rows": ROWS,
        "statement": "One plain gradient step of 0.01 on the mean cross entropy.",
        "training": None,
    }


def run() -> dict[str, Any]:
    """A run of training that sharpens until it reaches the edge of stability."""
    ratios = [0.1 + 1.02 * (1 - math.exp(-place / 8)) for place in range(30)]
    measurements = [
        {
            "step": 50 * place,
            "learning_rate": 0.05,
            "loss": 2.3 * math.exp(-place / 9),
            "actual_change": -0.01 if ratio < 1.05 else 0.002,
            "predicted_change": None if place % 4 else -0.009,
            "along_step": 30 * ratio,
            "sharpness": 40 * ratio,
            "largest_safe_step": 0.05 / ratio,
            "ratio": ratio,
            "metric": "l2",
            "same_batch": True,
        }
        for place, ratio in enumerate(ratios)
    ]
    return {"improved": 0.9, "measurements": measurements}


def trace(upper: list[float], lower: list[float]) -> list[dict[str, Any]]:
    """Bounds as they come in: upper bounds early, lower bounds again and again."""
    steps = [
        {"seconds": 0.08 + 0.9 * i, "side": "upper", "value": v, "method": "gain"}
        for i, v in enumerate(upper)
    ] + [
        {"seconds": 0.15 + 0.33 * i, "side": "lower", "value": v, "method": "gradient ascent"}
        for i, v in enumerate(lower)
    ]
    return sorted(steps, key=lambda step: step["seconds"])


def layers(gains: list[float]) -> list[dict[str, Any]]:
    ops = ["linear", "relu", "linear", "relu", "linear"]
    return [
        {"path": str(i), "op": op, "gain": gain}
        for i, (op, gain) in enumerate(zip(ops, gains, strict=True))
    ]


ASSUMPTIONS = [
    "The bound holds on the whole input space.",
    "Layer norms are singular values, bounded from above in float64 with outward rounding.",
]


def plain() -> dict[str, Any]:
    return {
        "name": "digits-plain",
        "description": "Two hidden layers of 128 units, trained with cross entropy and Adam.",
        "model": "demo:digits-plain",
        "parameters": 26122,
        "fingerprint": "3b1d9a4c" * 8,
        "accuracy": 0.975,
        "lipschitz": {
            "lower": 27.1,
            "upper": 35.2,
            "ratio": 1.299,
            "lower_by": "Jacobian at data points, then gradient ascent",
            "upper_by": "product of layer gains",
            "outcome": "BUDGET_SPENT",
            "advice": "More seconds may narrow the bracket; the upper bound moved last at 1.88 s.",
            "seconds": 3.1,
            "trace": trace([61.0, 44.0, 35.2], [14.2, 19.5, 22.8, 24.9, 26.0, 26.7, 27.0, 27.1]),
            "layers": layers([5.21, 1.0, 4.02, 1.0, 2.914]),
            "assumptions": list(ASSUMPTIONS),
        },
        "certificates": {
            "method": "global",
            "semantics": "real",
            "guarantee": "No input within the radius of a row, in l2, changes that row's answer.",
            "clean_accuracy": 0.975,
            "verified_accuracy": 0.0,
            "median_radius": 0.0712,
            "median_interval": [0.0677, 0.0744],
            "shares": shares(349, 19, 0),
            "level": 0.95,
            "reasons": {"certified": 351, "misclassified": 9},
            "curve": curve(0.085, 0.975, 0.25),
            "least": [attacked(r) for r in answers([0.00104 * (1 + k) for k in range(8)], 3)],
            "most": answers([0.171 - 0.004 * k for k in range(8)], 6),
        },
        "attacks": attacks(0.21, 0.975, 0.31),
        "conditions": conditions("vacuous", 0.0712),
        "knowledge": knowledge([1.42, 1.61, 2.05, 1.58, 0.93]),
        "descent": step(0.17, 0.05) | {"training": run()},
    }


def bounded() -> dict[str, Any]:
    return {
        "name": "digits-bounded",
        "description": "The same shape, each layer kept at gain 1 while it was trained.",
        "model": "demo:digits-bounded",
        "parameters": 26122,
        "fingerprint": "9f00e2d7" * 8,
        "accuracy": 0.9611,
        "lipschitz": {
            "lower": 1.37,
            "upper": 1.46,
            "ratio": 1.0657,
            "lower_by": "Jacobian at data points, then gradient ascent",
            "upper_by": "product of layer gains",
            "outcome": "EXHAUSTED",
            "advice": "Every method that applies has run.",
            "seconds": 2.6,
            "trace": trace([1.9, 1.52, 1.46], [0.71, 1.02, 1.2, 1.31, 1.35, 1.37]),
            "layers": layers([1.0, 1.0, 1.0, 1.0, 1.46]),
            "assumptions": list(ASSUMPTIONS),
        },
        "certificates": {
            "method": "global",
            "semantics": "real",
            "guarantee": "No input within the radius of a row, in l2, changes that row's answer.",
            "clean_accuracy": 0.9611,
            "verified_accuracy": 0.7306,
            "median_radius": 0.388,
            "median_interval": [0.371, None],
            "shares": shares(345, 320, 263),
            "level": 0.95,
            "reasons": {"certified": 346, "misclassified": 14},
            "curve": curve(0.46, 0.9611, 1.1),
            "least": [attacked(r) for r in answers([0.0113 * (1 + k) for k in range(8)], 4)],
            "most": answers([0.912 - 0.013 * k for k in range(8)], 8),
        },
        "attacks": attacks(0.62, 0.9611, 0.81),
        "conditions": conditions("meaningful", 0.388),
        "knowledge": knowledge([1.12, 1.18, 1.29, 1.22, 0.88]),
        "descent": step(0.753, 0.3),
    }


def example() -> dict[str, Any]:
    """A whole audit of two models."""
    return {
        "format": 1,
        "holdfast": "0.1.0",
        "created": "2026-11-23T14:00:00+00:00",
        "seconds": 21.4,
        "command": "holdfast audit --out runs/demo --norm 2 --epsilon 0.25",
        "norm": "l2",
        "epsilon": EPSILON,
        "distances": DISTANCES,
        "data": {
            "name": "demo:digits",
            "rows": ROWS,
            "held_out": True,
            "classes": 10,
            "shape": [64],
            "image": [8, 8],
            "range": [0.0, 1.0],
            "sha256": "c0ffee42" * 8,
        },
        "subjects": [plain(), bounded()],
        "versions": {"python": "3.11.7", "torch": "2.13.0+cpu", "numpy": "2.3.1"},
        "machine": "2 cores, Linux x86_64",
        "seeds": {"lipschitz": 0, "knowledge": 0},
        "citations": [
            {
                "key": "sun2024knowledge",
                "bibtex": "@inproceedings{sun2024knowledge,\n"
                "  title     = {Achieving Domain-Independent Certified Robustness via "
                "Knowledge Continuity},\n"
                "  author    = {Sun, Alan and Ma, Chiyu and Ge, Kenneth and "
                "Vosoughi, Soroush},\n"
                "  booktitle = {NeurIPS},\n  year      = {2024}\n}",
            }
        ],
    }


def tokens() -> dict[str, Any]:
    """A whole audit of a model of text, where there is no distance between inputs."""
    whole = example()
    known = knowledge([0.42, 0.41, 0.43, 0.45, 0.47])
    for row, shown in known["rows"].items():
        del shown["pixels"]
        shown["text"] = f"a film of {row} minutes"
    subject = {key: plain()[key] for key in ("description", "parameters", "fingerprint")}
    subject |= {
        "name": "tiny",
        "model": "hf:tiny",
        "accuracy": 0.87,
        "knowledge": known,
        "conditions": {
            "metric": "none",
            "bounded": "unbounded",
            "advice": "Use knowledge continuity.",
        },
    }
    data = {"name": "csv:t.csv", "rows": ROWS, "classes": 2, "shape": [], "image": None}
    data |= {"tokens": 64, "truncated": 3, "sha256": "c0ffee42" * 8}
    for name in ("norm", "epsilon", "distances"):
        del whole[name]
    return whole | {"data": data, "subjects": [subject]}


@pytest.fixture
def text_audit() -> dict[str, Any]:
    return tokens()


@pytest.fixture
def audit() -> dict[str, Any]:
    return example()
