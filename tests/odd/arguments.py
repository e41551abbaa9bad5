"""What people pass by mistake, for any argument and for some."""

import decimal
import fractions
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import holdfast


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


def odd_values() -> dict[str, Any]:
    """Return what people pass by mistake for any argument."""
    return {
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


def odd_rows(x: Tensor) -> dict[str, Any]:
    """Return odd forms of the rows x [6, 4]."""
    return {
        "no rows": x[:0],
        "one row": x[:1],
        "no columns": x[:, :0],
        "one number": torch.tensor(1.0),
        "a row without batch": x[0],
        "too wide": torch.cat([x, x], 1),
        "a dimension more": x[None],
        "another at the end": x[..., None],
        "NaN": x.clone().fill_diagonal_(math.nan),
        "all NaN": x * math.nan,
        "infinite": x.clone().fill_diagonal_(math.inf),
        "huge": x * 1e38,
        "subnormal": x * 1e-42,
        "double": x.double(),
        "finer than float32": x.double() + 1e-12,
        "beyond float32": x.double() * 1e300,
        "half": x.half(),
        "bfloat16": x.bfloat16(),
        "whole": x.long(),
        "bytes": (x * 10).byte(),
        "uint16": torch.ones(6, 4, dtype=torch.uint16),
        "truth": x > 0,
        "complex": torch.complex(x, x),
        "conjugate": torch.complex(x, x).conj(),
        "imaginary part": torch.complex(x, x).conj().imag,
        "float8": x.to(torch.float8_e5m2),
        "sparse": x.to_sparse(),
        "compressed": compressed(x),
        "mkldnn": x.to_mkldnn(),
        "nested": torch.nested.nested_tensor([x[0], x[1]], layout=torch.jagged),
        "meta": x.to("meta"),
        "with gradient": x.clone().requires_grad_(),
        "from a computation": (x.clone().requires_grad_() * 2),
        "of inference mode": inference(x),
        "not contiguous": x.t().contiguous().t(),
        "expanded": x[:1].expand(6, 4),
        "a parameter": nn.Parameter(x.clone()),
        "a subclass": x.as_subclass(Subclass),
        "a failing subclass": x.clone().as_subclass(Shouting),
        "a list": x.tolist(),
        "a tuple of rows": tuple(x),
        "an array": x.numpy(),
        "an array in double": x.double().numpy(),
        "big endian": x.numpy().astype(">f4"),
        "longer doubles": x.numpy().astype(np.longdouble),
        "Fortran order": np.asfortranarray(x.numpy()),
        "a matrix": np.matrix(x.numpy()),
        "objects": x.numpy().astype(object),
        "words": np.array([["a"] * 4] * 6),
        "dates": np.zeros((6, 4), "datetime64[s]"),
        "a record array": np.zeros(6, [("a", "f4"), ("b", "f4")]),
        "a mapping": {"x": x},
        "an empty mapping": {},
        "a mapping of the wrong name": {"input": x},
        "a mapping of the right name": {"input_": x},
        "a mapping of numbers": {"x": 1.0},
        "a mapping by numbers": {1: x},
        "a mapping of unequal rows": {"x": x, "y": x[:2]},
        "a generator": iter(x),
        "ragged": [[1.0], [1.0, 2.0]],
        "equal rows": torch.ones(6, 4),
        "300 rows": x.repeat(50, 1),
    }


def odd_labels(y: Tensor) -> dict[str, Any]:
    """Return odd forms of the labels y [6]."""
    return {
        "a list": y.tolist(),
        "an array": y.numpy(),
        "int8": y.to(torch.int8),
        "uint64": y.numpy().astype(np.uint64),
        "truth": y > 0,
        "a column": y[:, None],
        "a row": y[None],
        "one-hot": nn.functional.one_hot(y, 3),
        "float one-hot": nn.functional.one_hot(y, 3).double(),
        "targets": torch.randn(6, 3),
        "targets of one output": torch.randn(6),
        "NaN targets": torch.full((6, 3), math.nan),
        "complex": y + 0j,
        "beyond": y + 7,
        "below": y - 7,
        "short": y[:3],
        "long": y.repeat(2),
        "none of them": y[:0],
        "one": y[0],
        "sparse": y.to_sparse(),
        "meta": y.to("meta"),
        "of inference mode": inference(y),
        "words": ["cat"] * 6,
        "mixed": [0, "cat", None, 1.0, 2, 1],
        "a generator": iter(y),
        "a range": range(6),
        "huge": [10**30] * 6,
        "a dictionary": dict(enumerate(y.tolist())),
    }


def odd_pairs(x: Tensor, y: Tensor) -> dict[str, Any]:
    """Return odd forms of rows with labels."""
    return {
        "rows alone": x,
        "three": (x, y, y),
        "one": (x,),
        "the wrong way round": (y, x),
        "lists": (x.tolist(), y.tolist()),
        "arrays": (x.numpy(), y.numpy()),
        "batches": [(x[:3], y[:3]), (x[3:], y[3:])],
        "batches of arrays": [(x[:3].numpy(), y[:3].numpy()), (x[3:].numpy(), y[3:].numpy())],
        "two batches in a tuple": ((x[:3], y[:3]), (x[3:], y[3:])),
        "batches that differ": [(x, y), (x[:, :2], y)],
        "batches that differ in type": [(x, y), (x.double(), y)],
        "no batches": [],
        "a loader": DataLoader(TensorDataset(x, y), 4),
        "a dataset": TensorDataset(x, y),
        "a generator": ((x[k : k + 1], y[k : k + 1]) for k in range(6)),
        "a generator that fails": (1 / 0 for _ in range(2)),
        "a dictionary": {"inputs": x, "labels": y},
        "one row": (x[:1], y[:1]),
        "equal rows": (x[:1].repeat(6, 1), y),
        "one class": (x, y * 0),
        "texts": ["a", "b"],
        "nothing": (None, None),
    }


def odd_regions(row: Tensor) -> dict[str, Any]:
    """Return odd regions about a row [4]."""
    return {
        "a tuple": (row, 1.0),
        "a ball": holdfast.Ball(row, 0.1),
        "a point": holdfast.Ball(row, 0.0),
        "a whole ball": holdfast.Ball(row.long(), 1),
        "a ball in l1": holdfast.Ball(row, 1e-300, "l1"),
        "a huge ball": holdfast.Ball(row, 1e300, "linf"),
        "a ball with a batch": holdfast.Ball(row[None], 0.1),
        "a ball of a number": holdfast.Ball(torch.tensor(0.0), 0.1),
        "a box of one point": holdfast.Box(row, row),
        "a box without end": holdfast.Box(row, row + math.inf),
        "a box of everything": holdfast.Box(row - math.inf, row + math.inf),
        "a huge box": holdfast.Box(row * 0 - 3e38, row * 0 + 3e38),
        "a box in half": holdfast.Box(row.half(), row.half() + 1),
        "a narrow box": holdfast.Box(row[:2], row[:2]),
        "balls in a list": [holdfast.Ball(row, 0.1)],
    }
