"""Data by name, as the command line takes it: built in, from a file, or drawn at random."""

import dataclasses
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast.arguments import check_inputs
from holdfast.errors import HoldfastWarning, InvalidInput
from holdfast.sources.arrays import read_npz
from holdfast.sources.demo import demo_data, demo_image_shape
from holdfast.sources.labels import class_numbers
from holdfast.sources.names import DATA_FORMS, full_data_name
from holdfast.sources.query import numbers, split_query, whole
from holdfast.sources.shapes import channels_first, to_shape
from holdfast.sources.tables import READERS, TABLE_OPTIONS, TableRows, read_table


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
        classes: Class numbers by the words that stand for them in the file.
        groups: Which entries say a category, by the name of its column in the file.
        missing: What was done about fields without a value, and how many there were, by column.
    """

    inputs: Tensor
    labels: Tensor
    name: str
    image: tuple[int, ...] | None = None
    scale: float | None = None
    layout: str | None = None
    columns: tuple[str, ...] = ()
    classes: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, range] = field(default_factory=dict)
    missing: Mapping[str, Any] = field(default_factory=dict)

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
        onehot = {name: list(places) for name, places in self.groups.items()}
        parts = {"classes": dict(self.classes), "onehot": onehot, "missing": dict(self.missing)}
        read = {name: part for name, part in parts.items() if part}
        return {"scale": self.scale} | ({"read": read} if read else {})

    def shown(self, row: int) -> dict[str, Any]:
        """Return what a reader may see of a row: its pixels, or the values of its columns."""
        return self.seen(self.inputs[row])

    def seen(self, row: Tensor) -> dict[str, Any]:
        """Return what a reader may see of a row or of an attack on one, in the row's shape."""
        if self.image is None and not self.columns:
            return {}
        return {"values" if self.image is None else "pixels": row.flatten().tolist()}

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


def load_data(spec: str, dtype: torch.dtype = torch.float32, labelled: bool = True) -> LoadedData:
    """Load data named on the command line.

    Args:
        spec: `demo:digits`; `npz:PATH` with arrays `inputs` and `labels`, or of another usual pair
            of names; `csv:PATH` or `parquet:PATH` with a column for the label; a bare PATH whose
            ending says which; or `normal:SHAPE`, standard normal rows, all of class 0. Files take
            the options `inputs`, `labels`, `classes`, `rows`, `scale` and `layout`, as in
            `npz:PATH?rows=200&scale=255`, and tables those of `read_table`; `target=NAME` in place
            of `labels` is a column or array of numbers to be predicted.
        dtype: Type in which whole numbers are divided by the scale: the model's.
        labelled: Whether labels are needed; where they are not and a file has none, all are 0.

    Returns:
        The rows, checked: at least one, floating point, one whole label or target each.

    Raises:
        InvalidInput: When there is no such data, or it is not usable.
    """
    kind, _, rest = full_data_name(spec).partition(":")
    if kind == "demo":
        inputs, labels = demo_data(rest or "digits")
        return LoadedData(inputs, labels, spec, demo_image_shape(rest or "digits"))
    if kind == "normal":
        return _normal(spec, rest)
    return _from_file(spec, kind, rest, dtype, labelled)


def _normal(spec: str, shape: str) -> LoadedData:
    """Return random rows where there is no data: a bracket needs points to search from."""
    sizes = shape.split("x")
    if not all(size.isdecimal() and int(size) for size in sizes):
        like = "x".join(re.findall(r"[1-9][0-9]{0,8}", shape)) or "3x8x8"
        raise InvalidInput("data", repr(spec), f"normal:{like}, for rows of that shape")
    sides = [int(size) for size in sizes]
    rows, most = 64, 2**22  # enough starts for a search, in at most 1 GiB
    if math.prod(sides) > most:
        raise InvalidInput("data", repr(spec), f"at most {most} entries a row")
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, *sides, generator=generator)
    return LoadedData(inputs, torch.zeros(rows, dtype=torch.int64), spec)


def _from_file(spec: str, kind: str, rest: str, dtype: torch.dtype, labelled: bool) -> LoadedData:
    known = ("inputs", "labels", "target", "classes", "rows", "scale", "layout")
    known += TABLE_OPTIONS if kind in READERS else ()
    path, options = split_query("data", rest, known)
    for pair in ({"labels", "target"}, {"classes", "target"}):
        if pair <= options.keys():
            wanted = "labels or target, not both; classes are of labels"
            raise InvalidInput("data", f"?{rest.partition('?')[2]}", wanted)
    rows = whole("data", "rows", options["rows"]) if "rows" in options else None
    if not path:
        raise InvalidInput("data", repr(spec), DATA_FORMS)
    if kind in READERS:
        table = read_table(kind, Path(path), options, rows, labelled)
    else:
        names = (options.get("inputs"), options.get("target", options.get("labels")))
        arrays = read_npz(Path(path), names, rows, labelled)
        table = TableRows(*arrays, lambda row: f"row {row}")
    inputs, (labels, classes) = torch.from_numpy(table.inputs), _labels(table, options)
    if inputs.dim() == 0 or inputs.numel() == 0:
        raise InvalidInput("inputs", f"shape {tuple(inputs.shape)}", "at least one row of numbers")
    layout = options.get("layout")
    scaled, scale = _scaled(channels_first(inputs, layout), options.get("scale"), dtype)
    data = checked(scaled, torch.from_numpy(labels), spec, targets="target" in options)
    missing = {options.get("missing", ""): dict(table.missing)} if table.missing else {}
    return dataclasses.replace(
        data, scale=scale, layout=layout, columns=table.columns, classes=classes,
        groups=table.groups, missing=missing,
    )  # fmt: skip


def _labels(table: TableRows, options: Mapping[str, str]) -> tuple[np.ndarray, dict[str, int]]:
    """Return class numbers or targets of rows, and the numbers of classes that are words.

    Raises:
        InvalidInput: When they are not one for each row, or none of both.
    """
    labels, rows = table.labels, len(table.inputs)
    if labels is None:
        return np.zeros(rows, dtype=np.int64), {}
    if labels.shape not in ((rows,), (rows, 1)):
        many = labels.ndim == 2 and labels.shape[0] == rows and "target" not in options
        more = " class numbers (labels.argmax(1), where each has a column)" if many else ""
        got = f"labels of shape {list(labels.shape)} for {rows} inputs"
        raise InvalidInput("data", got, f"[{rows}]{more}")
    labels = labels.reshape(rows)
    if "target" not in options:
        return class_numbers(labels, table.place, options.get("classes"), table.label)
    if labels.dtype.kind not in "biuf":
        got = f"{str(labels[0])[:40]!r} in {table.place(0)} as the target"
        raise InvalidInput("data", got, "numbers to be predicted, or ?labels=NAME for classes")
    targets = labels.astype(np.float64)
    if not np.isfinite(targets).all():
        row = int((~np.isfinite(targets)).argmax())
        got = f"the target {targets[row]:g} in {table.place(row)}"
        raise InvalidInput("data", got, "finite targets")
    return targets, {}


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
        raise InvalidInput("data", f"labels of type {labels.dtype}", "whole class numbers")
    if not inputs.is_floating_point():
        wanted = (
            "floating-point inputs in the model's units: ?scale=1 takes them as they are, "
            "?scale=255 divides them by 255"
        )
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
