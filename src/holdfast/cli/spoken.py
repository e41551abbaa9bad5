"""What `--json` prints: everything is said, nothing is a bare null."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from holdfast.types import norm_name


def spoken(value: Any) -> Any:
    """Return a value made of what JSON knows.

    What is None is left out of its object, a norm is l1, l2 or linf, and numbers that are not
    finite are the words inf, -inf and nan.

    >>> spoken({"norm": math.inf, "radius": (1.5, math.inf), "scale": None})
    {'norm': 'linf', 'radius': [1.5, 'inf']}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return spoken(said_by(value))
    if isinstance(value, Mapping):
        said = {str(key): spoken(entry) for key, entry in value.items() if entry is not None}
        if isinstance(value.get("norm"), float):
            said["norm"] = norm_name(value["norm"])
        return said
    if isinstance(value, Tensor):
        return spoken(value.tolist())
    if isinstance(value, list | tuple):
        return [spoken(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def said_by(result: Any, *left_out: str) -> dict[str, Any]:
    """Return the fields of a result, as they are; those that its repr leaves out are no data."""
    names = [field.name for field in dataclasses.fields(result) if field.repr]
    return {name: getattr(result, name) for name in names if name not in left_out}
