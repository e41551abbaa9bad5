"""One ONNX node as a module: its constants are its parameters, its rows come when it is called."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from holdfast.sources.onnx.layers import LAYERS, Static
from holdfast.sources.onnx.rows import RowValue
from holdfast.sources.onnx.scalar import SCALAR
from holdfast.sources.onnx.wiring import WIRING

OPERATORS: Mapping[str, Callable[..., RowValue | list[RowValue]]] = {**LAYERS, **SCALAR, **WIRING}
"""Functions by operator; `Constant`, `Shape` and `Size` are read, not run."""


@dataclass(frozen=True)
class Placeholder:
    """A place in a call for rows.

    Attributes:
        batched: How they are stored; see `RowValue`.
    """

    batched: bool


@dataclass(frozen=True)
class StoredConstant:
    """A place in a call for a constant of the step.

    Attributes:
        name: Of the parameter or buffer.
    """

    name: str


class OnnxCall(nn.Module):
    """A call of an operator.

    Floating-point constants are parameters, named as in the function's signature; statistics and
    whole numbers are buffers.

    Args:
        function: From `OPERATORS`.
        places: What goes where: `Placeholder`, `StoredConstant`, or a value.
        attributes: Keyword arguments.
        kept: The constants.
    """

    def __init__(
        self,
        function: Callable[..., RowValue | list[RowValue]],
        places: Sequence[object],
        attributes: Mapping[str, Any],
        kept: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.function, self.places, self.attributes = function, tuple(places), dict(attributes)
        for name, value in kept.items():
            if value.is_floating_point() and not name.startswith("running_"):
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the results, each [B, ...]."""
        coming = [place for place in self.places if isinstance(place, Placeholder)]
        rows = [RowValue(t, place.batched) for t, place in zip(tensors, coming, strict=True)]
        return tuple(result.tensor for result in self.results(rows))

    def results(self, rows: Sequence[RowValue]) -> list[RowValue]:
        """Return the results as rows; on the meta device, their shapes alone."""
        left = iter(rows)
        on_meta = any(row.tensor.is_meta for row in rows)

        def fill(place: object) -> object:
            if isinstance(place, Placeholder):
                return next(left)
            if isinstance(place, StoredConstant):
                value = getattr(self, place.name)
                return value.to("meta") if on_meta else value
            return place

        found = self.function(*map(fill, self.places), **self.attributes)
        return found if isinstance(found, list) else [found]


Value = Tensor | RowValue | None


def make_call(
    op: str, values: Sequence[Value], attributes: Mapping[str, Any], opset: int, outputs: int
) -> OnnxCall:
    """Return the step of a node.

    Args:
        op: One of `OPERATORS`.
        values: The node's inputs: constants, rows, or None where one is left out.
        attributes: The node's attributes.
        opset: Version of the operators in the file.
        outputs: Number of the node's outputs.

    Raises:
        ValueError: When the inputs or attributes are not those of the operator.
    """
    function = OPERATORS[op]
    signature = inspect.signature(function)
    extra = {"opset": opset, "outputs": outputs}
    given = {**attributes, **{k: v for k, v in extra.items() if k in signature.parameters}}
    try:
        bound = signature.bind(*values, **given)
    except TypeError as problem:
        raise ValueError(f"its inputs or attributes are not known here: {problem}") from problem
    names = [*_names(signature, len(values))]
    constant = not any(isinstance(value, RowValue) for value in values)
    places: list[object] = []
    kept: dict[str, Tensor] = {}
    for (name, static), value in zip(names, values, strict=True):
        if static:
            places.append(_static(name, value))
        elif isinstance(value, RowValue):
            places.append(Placeholder(value.batched))
        elif isinstance(value, Tensor) and constant:
            places.append(Placeholder(False))
        elif isinstance(value, Tensor):
            places.append(StoredConstant(name))
            kept[name] = value
        else:
            places.append(None)
    keywords = {name: value for name, value in bound.arguments.items() if name in given}
    return OnnxCall(function, places, keywords, kept)


def _names(signature: inspect.Signature, count: int) -> list[tuple[str, bool]]:
    """Return name of every positional parameter, and whether it must be known from the file."""
    found = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            found += [(f"{parameter.name}_{k}", False) for k in range(count - len(found))]
        elif parameter.kind is not parameter.KEYWORD_ONLY:
            static = parameter.annotation == Static
            found.append((parameter.name, static))
    return found[:count]


def _static(name: str, value: Value) -> Any:
    """Return a constant input as a number or as nested lists.

    Raises:
        ValueError: When it depends on the model's input, or is too long.
    """
    if value is None:
        return None
    if isinstance(value, RowValue):
        raise ValueError(f"{name} depends on the input of the model")
    if value.numel() > 2**16:  # a shape or a list of axes is short; an index may be long
        raise ValueError(f"{name} of {value.numel()} entries")
    # A length of one may stand for a number, as in Clip and Pad.
    return value.item() if value.dim() == 0 else value.tolist()
