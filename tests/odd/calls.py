"""Odd arguments of every verb, on a model that is in order."""

import contextlib
import decimal
import fractions
import math
import pathlib
import warnings

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import holdfast

torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
Y = NET(X).argmax(1)
CERTIFICATES = holdfast.certify(NET, X, Y, method="global")
KNOWLEDGE = holdfast.knowledge(NET, (X, Y))
ATTACKS = holdfast.attack(NET, X, Y, epsilon=0.1)
GRAPH = holdfast.capture(NET, X)


class Subclass(torch.Tensor):
    """A tensor of another class."""


class Shouting(torch.Tensor):
    """A tensor that fails in every operation."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError("not with me")


class Number:
    """What only looks like a number."""

    def __float__(self):
        raise ValueError("not me")

    def __lt__(self, other):
        return True

    __gt__ = __le__ = __ge__ = __lt__


class Array:
    """What says that it is an array, and fails."""

    def __array__(self, dtype=None, copy=None):
        raise KeyError("no array")


class Showing:
    def __repr__(self):
        raise ValueError("no repr")


def inference(value):
    with torch.inference_mode():
        return value.clone()


def compressed(value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own: these tensors are in beta
        return value.to_sparse_csr()


def cyclic():
    value = []
    value.append(value)
    return value


NOTHING = {
    "none": None,
    "no text": "",
    "text": "cat",
    "bytes": b"cat",
    "odd text": "\x1b[2J\n\udcff",
    "long text": "a" * 100_000,
    "zero": 0,
    "minus one": -1,
    "true": True,
    "NaN": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "huge": 10**400,
    "very huge": 10**5000,
    "tiny": 5e-324,
    "complex": 1j,
    "a fraction": fractions.Fraction(1, 3),
    "a decimal": decimal.Decimal("0.1"),
    "fraction in text": "2/255",
    "over zero in text": "1/0",
    "an array of one": np.array([1.0]),
    "a number of numpy": np.float32(0.5),
    "a tensor": torch.tensor(0.5),
    "tensors": torch.zeros(3),
    "meta": torch.tensor(0.5, device="meta"),
    "an empty list": [],
    "a list": [1, 2],
    "a list that holds itself": cyclic(),
    "an empty tuple": (),
    "a dictionary": {"a": 1},
    "a set": {1},
    "a function": len,
    "a class": float,
    "a module": nn.ReLU(),
    "an object": object(),
    "looks like a number": Number(),
    "looks like an array": Array(),
    "cannot be shown": Showing(),
}
"""What people pass by mistake, for any argument."""

ROWS = {
    "no rows": X[:0],
    "one row": X[:1],
    "no columns": X[:, :0],
    "one number": torch.tensor(1.0),
    "a row without batch": X[0],
    "too wide": torch.cat([X, X], 1),
    "a dimension more": X[None],
    "another at the end": X[..., None],
    "NaN": X.clone().fill_diagonal_(math.nan),
    "all NaN": X * math.nan,
    "infinite": X.clone().fill_diagonal_(math.inf),
    "huge": X * 1e38,
    "subnormal": X * 1e-42,
    "double": X.double(),
    "finer than float32": X.double() + 1e-12,
    "beyond float32": X.double() * 1e300,
    "half": X.half(),
    "bfloat16": X.bfloat16(),
    "whole": X.long(),
    "bytes": (X * 10).byte(),
    "uint16": torch.ones(6, 4, dtype=torch.uint16),
    "truth": X > 0,
    "complex": torch.complex(X, X),
    "conjugate": torch.complex(X, X).conj(),
    "imaginary part": torch.complex(X, X).conj().imag,
    "float8": X.to(torch.float8_e5m2),
    "sparse": X.to_sparse(),
    "compressed": compressed(X),
    "mkldnn": X.to_mkldnn(),
    "nested": torch.nested.nested_tensor([X[0], X[1]], layout=torch.jagged),
    "meta": X.to("meta"),
    "with gradient": X.clone().requires_grad_(),
    "from a computation": (X.clone().requires_grad_() * 2),
    "of inference mode": inference(X),
    "not contiguous": X.t().contiguous().t(),
    "expanded": X[:1].expand(6, 4),
    "a parameter": nn.Parameter(X.clone()),
    "a subclass": X.as_subclass(Subclass),
    "a failing subclass": X.clone().as_subclass(Shouting),
    "a list": X.tolist(),
    "a tuple of rows": tuple(X),
    "an array": X.numpy(),
    "an array in double": X.double().numpy(),
    "big endian": X.numpy().astype(">f4"),
    "longer doubles": X.numpy().astype(np.longdouble),
    "Fortran order": np.asfortranarray(X.numpy()),
    "a matrix": np.matrix(X.numpy()) if hasattr(np, "matrix") else X.numpy(),
    "objects": X.numpy().astype(object),
    "words": np.array([["a"] * 4] * 6),
    "dates": np.zeros((6, 4), "datetime64[s]"),
    "a record array": np.zeros(6, [("a", "f4"), ("b", "f4")]),
    "a mapping": {"x": X},
    "an empty mapping": {},
    "a mapping of the wrong name": {"input": X},
    "a mapping of the right name": {"input_": X},
    "a mapping of numbers": {"x": 1.0},
    "a mapping by numbers": {1: X},
    "a mapping of unequal rows": {"x": X, "y": X[:2]},
    "a generator": (row for row in X),
    "ragged": [[1.0], [1.0, 2.0]],
    "equal rows": torch.ones(6, 4),
    "300 rows": X.repeat(50, 1),
}
LABELS = {
    "a list": Y.tolist(),
    "an array": Y.numpy(),
    "int8": Y.to(torch.int8),
    "uint64": Y.numpy().astype(np.uint64),
    "truth": Y > 0,
    "a column": Y[:, None],
    "a row": Y[None],
    "one-hot": nn.functional.one_hot(Y, 3),
    "float one-hot": nn.functional.one_hot(Y, 3).double(),
    "targets": torch.randn(6, 3),
    "targets of one output": torch.randn(6),
    "NaN targets": torch.full((6, 3), math.nan),
    "complex": Y + 0j,
    "beyond": Y + 7,
    "below": Y - 7,
    "short": Y[:3],
    "long": Y.repeat(2),
    "none of them": Y[:0],
    "one": Y[0],
    "sparse": Y.to_sparse(),
    "meta": Y.to("meta"),
    "of inference mode": inference(Y),
    "words": ["cat"] * 6,
    "mixed": [0, "cat", None, 1.0, 2, 1],
    "a generator": (y for y in Y),
    "a range": range(6),
    "huge": [10**30] * 6,
    "a dictionary": dict(enumerate(Y.tolist())),
}
PAIRS = {
    "rows alone": X,
    "three": (X, Y, Y),
    "one": (X,),
    "the wrong way round": (Y, X),
    "lists": (X.tolist(), Y.tolist()),
    "arrays": (X.numpy(), Y.numpy()),
    "batches": [(X[:3], Y[:3]), (X[3:], Y[3:])],
    "batches of arrays": [(X[:3].numpy(), Y[:3].numpy()), (X[3:].numpy(), Y[3:].numpy())],
    "two batches in a tuple": ((X[:3], Y[:3]), (X[3:], Y[3:])),
    "batches that differ": [(X, Y), (X[:, :2], Y)],
    "batches that differ in type": [(X, Y), (X.double(), Y)],
    "no batches": [],
    "a loader": DataLoader(TensorDataset(X, Y), 4),
    "a dataset": TensorDataset(X, Y),
    "a generator": ((X[k : k + 1], Y[k : k + 1]) for k in range(6)),
    "a generator that fails": (1 / 0 for _ in range(2)),
    "a dictionary": {"inputs": X, "labels": Y},
    "one row": (X[:1], Y[:1]),
    "equal rows": (X[:1].repeat(6, 1), Y),
    "one class": (X, Y * 0),
    "texts": ["a", "b"],
    "nothing": (None, None),
}
REGIONS = {
    "a tuple": (X[0], 1.0),
    "a ball": holdfast.Ball(X[0], 0.1),
    "a point": holdfast.Ball(X[0], 0.0),
    "a whole ball": holdfast.Ball(X[0].long(), 1),
    "a ball in l1": holdfast.Ball(X[0], 1e-300, "l1"),
    "a huge ball": holdfast.Ball(X[0], 1e300, "linf"),
    "a ball with a batch": holdfast.Ball(X[:1], 0.1),
    "a ball of a number": holdfast.Ball(torch.tensor(0.0), 0.1),
    "a box of one point": holdfast.Box(X[0], X[0]),
    "a box without end": holdfast.Box(X[0], X[0] + math.inf),
    "a box of everything": holdfast.Box(X[0] - math.inf, X[0] + math.inf),
    "a huge box": holdfast.Box(X[0] * 0 - 3e38, X[0] * 0 + 3e38),
    "a box in half": holdfast.Box(X[0].half(), X[0].half() + 1),
    "a narrow box": holdfast.Box(X[0][:2], X[0][:2]),
    "balls in a list": [holdfast.Ball(X[0], 0.1)],
}


def _with(table, call):
    return {f"{name}": (lambda value=value: call(value)) for name, value in table.items()}


def _named(prefix, calls):
    return {f"{prefix}: {name}": call for name, call in calls.items()}


def _step(model, loss, x, y, **options):
    return holdfast.descent(model, loss, x, y, **options)


def _monitored(**options):
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with holdfast.DescentMonitor(options.pop("optimizer", optimizer), **options) as monitor:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
    return monitor.measurements


VERBS = {
    "certify": lambda m=NET, x=X, y=Y, **o: holdfast.certify(m, x, y, **({"method": "global"} | o)),
    "attack": lambda m=NET, x=X, y=Y, **o: holdfast.attack(m, x, y, **({"epsilon": 0.02} | o)),
    "lipschitz": lambda m=NET, x=X, **o: holdfast.lipschitz(m, x, **({"seconds": 0.0} | o)),
    "conditions": lambda m=NET, x=X, y=Y, **o: holdfast.conditions(m, x, y, **o),
    "descent": lambda m=NET, x=X, y=Y, loss="cross_entropy", **o: _step(m, loss, x, y, **o),
    "knowledge": lambda m=NET, x=X, y=Y, **o: holdfast.knowledge(m, (x, y), **o),
    "capture": lambda m=NET, x=X: holdfast.capture(m, x),
}
OPTIONS = {
    "certify": ("norm", "method", "semantics"),
    "attack": ("norm", "epsilon"),
    "lipschitz": ("norm", "region", "seconds", "tolerance"),
    "conditions": ("norm", "metric"),
    "descent": ("loss", "step", "momentum", "batch_size"),
    "knowledge": (
        *("layers", "loss", "distance", "kernel", "clip", "pairs", "near", "grid", "seed"),
        *("pooling", "reference", "perturbations"),
    ),
    "capture": (),
}
METHODS = {
    "verified_accuracy": CERTIFICATES.verified_accuracy,
    "output_change": CERTIFICATES.output_change,
    "loss_change": CERTIFICATES.loss_change,
    "Certificates.load": holdfast.Certificates.load,
    "Attacks.load": holdfast.Attacks.load,
    "accuracy_under_attack": ATTACKS.accuracy_under_attack,
    "Ball center": lambda v: holdfast.Ball(v, 1.0),
    "Ball radius": lambda v: holdfast.Ball(X[0], v),
    "Ball norm": lambda v: holdfast.Ball(X[0], 1.0, v),
    "Box low": lambda v: holdfast.Box(v, X[0]),
    "Box high": lambda v: holdfast.Box(X[0], v),
    "worst layer": KNOWLEDGE.worst,
    "worst k": lambda v: KNOWLEDGE.worst("0", v),
    "certificate layer": lambda v: KNOWLEDGE.certificate(v, 1.0, 1.0),
    "certificate delta": lambda v: KNOWLEDGE.certificate("0", v, 1.0),
    "certificate eta": lambda v: KNOWLEDGE.certificate("0", 1.0, v),
    "certificate confidence": lambda v: KNOWLEDGE.certificate("0", 1.0, 1.0, v),
    "certificate method": lambda v: KNOWLEDGE.certificate("0", 1.0, 1.0, 0.9, v),
    "certificate anchor": lambda v: KNOWLEDGE.certificate("0", 1.0, 1.0, 0.9, "anchor", v),
    "certificate front": lambda v: KNOWLEDGE.certificate("0", 1.0, 1.0, front_upper=v),
    "frontier layer": KNOWLEDGE.frontier,
    "frontier confidence": lambda v: KNOWLEDGE.frontier("0", v),
    "frontier method": lambda v: KNOWLEDGE.frontier("0", 0.9, v),
    "volatility layer": KNOWLEDGE.volatility_certificate,
    "volatility confidence": lambda v: KNOWLEDGE.volatility_certificate("0", v),
    "volatility front": lambda v: KNOWLEDGE.volatility_certificate("0", 0.9, v),
    "cut layer": GRAPH.cut,
    "monitor every": lambda v: _monitored(every=v),
    "monitor optimizer": lambda v: _monitored(optimizer=v),
    "monitor loss": lambda v: _monitored(loss=v, every=1),
    "monitor out": lambda v: _monitored(out=v),
}


def saved(folder: pathlib.Path):
    """Return calls that write to odd paths, inside a folder alone."""
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
    every = (CERTIFICATES.save, ATTACKS.save, KNOWLEDGE.save, lambda v: _monitored(out=v))
    return [(lambda save=save, path=path: save(path)) for save in every for path in paths.values()]


@contextlib.contextmanager
def _double_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS = {
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "double by default": _double_by_default,
    "meta by default": lambda: torch.device("meta"),
}
"""What a caller may have set around a call."""

CALLS = {}
for verb, call in VERBS.items():
    CALLS |= _named(f"{verb} model", _with(NOTHING, lambda v, c=call: c(m=v)))
    CALLS |= _named(f"{verb} rows", _with(NOTHING | ROWS, lambda v, c=call: c(x=v)))
    if verb not in ("lipschitz", "capture"):
        CALLS |= _named(f"{verb} labels", _with(NOTHING | LABELS, lambda v, c=call: c(y=v)))
    for option in OPTIONS[verb]:
        values = NOTHING | (REGIONS if option == "region" else {})
        CALLS |= _named(f"{verb} {option}", _with(values, lambda v, c=call, o=option: c(**{o: v})))
for name, call in METHODS.items():
    CALLS |= _named(name, _with(NOTHING, call))
CALLS |= _named("data", _with(NOTHING | PAIRS, lambda v: holdfast.knowledge(NET, v)))
CALLS |= _named("reference", _with(PAIRS, lambda v: holdfast.knowledge(NET, (X, Y), reference=v)))
