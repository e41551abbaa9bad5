"""Data by name, as the command line takes it: `demo:NAME`, `npz:PATH`, `normal:SHAPE`."""

import dataclasses
import math
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from holdfast.batches import check_inputs
from holdfast.errors import HoldfastWarning, InvalidInput
from holdfast.sources.demo import demo_data, demo_image_shape

FORMS = "demo:NAME, npz:PATH or normal:SHAPE"
_NORMAL_ROWS, _MOST_ENTRIES = 64, 2**22
_INPUTS = ("inputs", "x", "x_test")
_LABELS = ("labels", "y", "y_test")


@dataclass(frozen=True, eq=False)
class LoadedData:
    """Rows and labels, and where they came from.

    Attributes:
        inputs: [N, ...], floating point.
        labels: [N], int64.
        name: What the user wrote.
        image: Shape in which a row is shown as a picture, [H, W] or [3, H, W]; None if it is none.
    """

    inputs: Tensor
    labels: Tensor
    name: str
    image: tuple[int, ...] | None = None

    def to(self, dtype: torch.dtype) -> "LoadedData":
        """Return the same rows in another floating-point type; warn where that rounds them."""
        inputs = self.inputs.to(dtype)
        if not torch.equal(inputs.to(self.inputs.dtype).nan_to_num(), self.inputs.nan_to_num()):
            kinds = [str(kind).removeprefix("torch.") for kind in (self.inputs.dtype, dtype)]
            rounded = f"data: rows of {kinds[0]} were rounded to the model's {kinds[1]}"
            warnings.warn(f"{rounded}: results are about those", HoldfastWarning, stacklevel=2)
        return dataclasses.replace(self, inputs=inputs)


def load_data(spec: str) -> LoadedData:
    """Load data named on the command line.

    Args:
        spec: `demo:digits`; `npz:PATH` with arrays `inputs` and `labels` (or `x` and `y`, or
            `x_test` and `y_test`); or `normal:SHAPE`, standard normal rows, all of class 0.

    Returns:
        The rows, checked: at least one, floating point, one whole label each.

    Raises:
        InvalidInput: When there is no such data, or it is not usable.
    """
    kind, _, rest = spec.partition(":")
    if kind == "demo":
        inputs, labels = demo_data(rest or "digits")
        return LoadedData(inputs, labels, spec, demo_image_shape(rest or "digits"))
    if kind == "npz" and rest:
        return _from_npz(spec, Path(rest))
    if kind == "normal" and rest:
        return _normal(spec, rest)
    raise InvalidInput("data", repr(spec), FORMS)


def _normal(spec: str, shape: str) -> LoadedData:
    """Return random rows where there is no data: a bracket needs points to search from."""
    sizes = shape.split("x")
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise InvalidInput("data", repr(spec), FORMS)
    sides = [int(size) for size in sizes]
    if math.prod(sides) > _MOST_ENTRIES:
        raise InvalidInput("data", repr(spec), f"at most {_MOST_ENTRIES} entries a row")
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(_NORMAL_ROWS, *sides, generator=generator)
    return LoadedData(inputs, torch.zeros(_NORMAL_ROWS, dtype=torch.int64), spec)


def _from_npz(spec: str, path: Path) -> LoadedData:
    wanted = "an .npz file of plain arrays"
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise InvalidInput("data", f"{str(path)!r}, which is something else", wanted)
            arrays = np.load(file, allow_pickle=False)
            inputs, labels = _array(arrays, _INPUTS), _array(arrays, _LABELS)
    except (InvalidInput, MemoryError):
        raise
    except Exception as problem:  # a damaged file can break its reader anywhere
        why = getattr(problem, "strerror", None) or " ".join(str(problem).split())
        raise InvalidInput("data", f"{str(path)!r} ({why})", wanted) from problem
    return checked(inputs, labels, spec)


def _array(arrays: np.lib.npyio.NpzFile, names: tuple[str, ...]) -> Tensor:
    name = next((name for name in names if name in arrays), None)
    if name is None:
        raise InvalidInput("data", f"arrays {', '.join(arrays)}", f"one of {', '.join(names)}")
    array = arrays[name]
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise InvalidInput("data", f"{name} of type {array.dtype}", "numbers of at most 64 bits")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))


def checked(inputs: Tensor, labels: Tensor, name: str) -> LoadedData:
    """Return rows and labels once they are seen to be usable.

    Args:
        inputs: [N, ...], floating point.
        labels: [N], whole numbers.
        name: What to call the data.

    Returns:
        The data, labels as int64.

    Raises:
        InvalidInput: When they are empty, not finite, or do not belong together.
    """
    check_inputs(inputs)
    if labels.shape != (len(inputs),):
        got = f"labels of shape {list(labels.shape)} for {len(inputs)} inputs"
        raise InvalidInput("data", got, f"[{len(inputs)}]")
    if labels.is_floating_point():
        raise InvalidInput("data", f"labels of type {labels.dtype}", "whole class numbers")
    if not inputs.is_floating_point():
        wanted = "floating-point inputs in the units the model was trained with"
        raise InvalidInput("data", f"inputs of type {inputs.dtype}", wanted)
    bad = (~torch.isfinite(inputs.flatten(1)).all(1)).nonzero().flatten().tolist()
    if bad:
        got = f"NaN or infinity in {len(bad)} rows (the first is row {bad[0]})"
        raise InvalidInput("data", got, "finite inputs")
    return LoadedData(inputs, labels.long(), name, _image(tuple(inputs.shape[1:])))


def _image(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape of a row as a picture, where it looks like one."""
    if len(shape) == 3 and shape[0] == 1:
        return shape[1:]
    picture = len(shape) == 2 or (len(shape) == 3 and shape[0] == 3)
    return shape if picture and min(shape[-2:]) > 1 else None
