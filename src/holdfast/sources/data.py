"""Data by name, as the command line takes it: built in, from a file, or drawn at random."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast.arguments import check_inputs
from holdfast.errors import HoldfastWarning, InvalidInput
from holdfast.sources.arrays import read_npz
from holdfast.sources.demo import demo_data, demo_image_shape
from holdfast.sources.query import numbers, split_query, whole
from holdfast.sources.shapes import channels_first, to_shape
from holdfast.sources.tables import read_csv, read_parquet

DATA_FORMS = "demo:NAME, npz:PATH, csv:PATH, parquet:PATH or normal:SHAPE"


@dataclass(frozen=True, eq=False)
class LoadedData:
    """Rows and labels, and where they came from.

    Attributes:
        inputs: [N, ...], floating point.
        labels: [N], int64; or targets, float64.
        name: What the user wrote.
        image: Shape in which a row is shown as a picture, [H, W] or [3, H, W]; None if it is none.
        scale: What the numbers in the file were divided by; None where they were taken as they are.
        layout: Where the file has the channels of an image, if the user said so.
        columns: Names of the entries of a row, where the file is a table.
    """

    inputs: Tensor
    labels: Tensor
    name: str
    image: tuple[int, ...] | None = None
    scale: float | None = None
    layout: str | None = None
    columns: tuple[str, ...] = ()

    @property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """All rows as one batch."""
        return [(self.inputs, self.labels)]

    @property
    def perturbations(self) -> None:
        """None: a file of numbers has no place for perturbed rows."""
        return None

    @property
    def treatment(self) -> dict[str, Any]:
        """What was done to the rows when they were read."""
        return {"scale": self.scale}

    def shown(self, row: int) -> dict[str, Any]:
        """Return what a reader may see of a row: its pixels, where it is a picture."""
        return {} if self.image is None else {"pixels": self.inputs[row].flatten().tolist()}

    def to(self, dtype: torch.dtype) -> "LoadedData":
        """Return the same rows in another floating-point type; warn where that rounds them."""
        inputs = self.inputs.to(dtype)
        if not torch.equal(inputs.to(self.inputs.dtype).nan_to_num(), self.inputs.nan_to_num()):
            kinds = [str(kind).removeprefix("torch.") for kind in (self.inputs.dtype, dtype)]
            rounded = f"data: rows of {kinds[0]} were rounded to the model's {kinds[1]}"
            warnings.warn(f"{rounded}: results are about those", HoldfastWarning, stacklevel=2)
        return dataclasses.replace(self, inputs=inputs)

    def shaped(self, shape: tuple[int, ...] | None) -> "LoadedData":
        """Return the same rows in the shape that a model takes; see `to_shape`."""
        if shape is None:
            return self
        return dataclasses.replace(self, inputs=to_shape(self.inputs, shape, self.layout))


def load_data(spec: str, dtype: torch.dtype = torch.float32) -> LoadedData:
    """Load data named on the command line.

    Args:
        spec: `demo:digits`; `npz:PATH` with arrays `inputs` and `labels` (or `x` and `y`, or
            `x_test` and `y_test`); `csv:PATH` or `parquet:PATH` with a column for the label; or
            `normal:SHAPE`, standard normal rows, all of class 0. Files take the options
            `inputs`, `labels`, `rows`, `scale` and `layout`, as in `npz:PATH?rows=200&scale=255`;
            `target=NAME` in place of `labels` is a column or array of numbers to be predicted.
        dtype: Type in which whole numbers are divided by the scale: the model's.

    Returns:
        The rows, checked: at least one, floating point, one whole label or target each.

    Raises:
        InvalidInput: When there is no such data, or it is not usable.
    """
    kind, _, rest = spec.partition(":")
    if kind == "demo":
        inputs, labels = demo_data(rest or "digits")
        return LoadedData(inputs, labels, spec, demo_image_shape(rest or "digits"))
    if kind in _READERS and rest:
        return _from_file(spec, kind, rest, dtype)
    if kind == "normal" and rest:
        return _normal(spec, rest)
    raise InvalidInput("data", repr(spec), DATA_FORMS)


def _normal(spec: str, shape: str) -> LoadedData:
    """Return random rows where there is no data: a bracket needs points to search from."""
    sizes = shape.split("x")
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise InvalidInput("data", repr(spec), DATA_FORMS)
    sides = [int(size) for size in sizes]
    rows, most = 64, 2**22  # enough starts for a search, in at most 1 GiB
    if math.prod(sides) > most:
        raise InvalidInput("data", repr(spec), f"at most {most} entries a row")
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, *sides, generator=generator)
    return LoadedData(inputs, torch.zeros(rows, dtype=torch.int64), spec)


_READERS: Mapping[str, Callable[..., tuple[np.ndarray, np.ndarray, tuple[str, ...]]]] = {
    "npz": read_npz,
    "csv": read_csv,
    "parquet": read_parquet,
}
"""Readers of a path, the names of inputs and labels, and a number of rows, by kind of file; they
return inputs, labels and the names of columns."""


def _from_file(spec: str, kind: str, rest: str, dtype: torch.dtype) -> LoadedData:
    known = ("inputs", "labels", "target", "rows", "scale", "layout")
    path, options = split_query("data", rest, known)
    if {"labels", "target"} <= options.keys():
        raise InvalidInput("data", f"?{rest.partition('?')[2]}", "labels or target, not both")
    rows = whole("data", "rows", options["rows"]) if "rows" in options else None
    if not path:
        raise InvalidInput("data", repr(spec), DATA_FORMS)
    read = _READERS[kind]
    answers = options.get("target", options.get("labels"))
    *arrays, names = read(Path(path), options.get("inputs"), answers, rows)
    inputs, labels = map(torch.from_numpy, arrays)
    if inputs.dim() == 0 or inputs.numel() == 0:
        raise InvalidInput("inputs", f"shape {tuple(inputs.shape)}", "at least one row of numbers")
    layout = options.get("layout")
    scaled, scale = _scaled(channels_first(inputs, layout), options.get("scale"), dtype)
    data = checked(scaled, labels, spec, targets="target" in options)
    return dataclasses.replace(data, scale=scale, layout=layout, columns=names)


def _scaled(inputs: Tensor, stated: str | None, dtype: torch.dtype) -> tuple[Tensor, float | None]:
    """Return inputs in the model's units, and what they were divided by.

    Raises:
        InvalidInput: When the scale is not above zero.
    """
    if stated is None and inputs.dtype != torch.uint8:
        return inputs, None
    if stated is None:
        said = "data: bytes were divided by 255; if the model was trained otherwise, say ?scale=..."
        warnings.warn(said, HoldfastWarning, stacklevel=2)
    scale = 255.0 if stated is None else numbers("data", "scale", stated)[0]
    if not scale > 0 or "," in (stated or ""):
        raise InvalidInput("data", f"scale={stated}", "one number above 0")
    values = inputs if inputs.is_floating_point() else inputs.to(dtype)
    return (values if scale == 1.0 else values / scale), scale


def checked(inputs: Tensor, labels: Tensor, name: str, targets: bool = False) -> LoadedData:
    """Return rows and labels once they are seen to be usable.

    Args:
        inputs: [N, ...], floating point.
        labels: [N], whole numbers; any numbers where they are targets.
        name: What to call the data.
        targets: Whether labels are numbers to be predicted, not classes.

    Returns:
        The data, labels as int64, targets as float64.

    Raises:
        InvalidInput: When they are empty, not finite, or do not belong together.
    """
    check_inputs(inputs)
    if labels.shape != (len(inputs),):
        got = f"labels of shape {list(labels.shape)} for {len(inputs)} inputs"
        raise InvalidInput("data", got, f"[{len(inputs)}]")
    if targets and not bool(torch.isfinite(labels.double()).all()):
        raise InvalidInput("data", "targets that are not finite", "finite targets")
    if labels.is_floating_point() and not targets:
        wanted = "whole class numbers, or ?target=NAME for numbers to be predicted"
        raise InvalidInput("data", f"labels of type {labels.dtype}", wanted)
    if not inputs.is_floating_point():
        wanted = "floating-point inputs in the model's units, or ?scale=255 (scale=1: as they are)"
        raise InvalidInput("data", f"inputs of type {inputs.dtype}", wanted)
    bad = (~torch.isfinite(inputs.flatten(1)).all(1)).nonzero().flatten().tolist()
    if bad:
        got = f"NaN or infinity in {len(bad)} rows (the first is row {bad[0]})"
        raise InvalidInput("data", got, "finite inputs")
    answers = labels.double() if targets else labels.long()
    return LoadedData(inputs, answers, name, _image(tuple(inputs.shape[1:])))


def _image(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape of a row as a picture, where it looks like one."""
    if len(shape) == 3 and shape[0] == 1:
        return shape[1:]
    picture = len(shape) == 2 or (len(shape) == 3 and shape[0] == 3)
    return shape if picture and min(shape[-2:]) > 1 else None
