"""One ONNX node as a module: its constants are its parameters, its rows come when it is called."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from holdfast.graph.walk import Slot, fill_slots
from holdfast.sources.onnx.images import IMAGES
from holdfast.sources.onnx.layers import LAYERS
from holdfast.sources.onnx.recurrent import RECURRENT
from holdfast.sources.onnx.rows import RowValue, Static
from holdfast.sources.onnx.scalar import SCALAR
from holdfast.sources.onnx.windows import WINDOWS
from holdfast.sources.onnx.wiring import WIRING

OPERATORS: Mapping[str, Callable[..., RowValue | list[RowValue]]] = {
    **LAYERS,
    **WINDOWS,
    **IMAGES,
    **SCALAR,
    **WIRING,
    **RECURRENT,
}
"""Functions by operator; `Constant`, `Shape` and `Size` are read, not run."""


class OnnxCall(nn.Module):
    """A call of an operator.

    Floating-point constants are parameters, named as in the function's signature; statistics and
    whole numbers are buffers.

    Args:
        function: From `OPERATORS`.
        arguments: Positional ones, by name: a value, or a `Slot` for rows that the call is given.
        batched: How each of these rows is stored; see `RowValue`.
        attributes: Keyword arguments.
        kept: Its constants by the name of their argument.
    """

    def __init__(
        self,
        function: Callable[..., RowValue | list[RowValue]],
        arguments: Mapping[str, object],
        batched: Sequence[bool],
        attributes: Mapping[str, Any],
        kept: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.function, self.arguments, self.attributes = function, arguments, dict(attributes)
        self.batched, self.kept = tuple(batched), tuple(kept)
        for name, value in kept.items():
            if value.is_floating_point() and not name.startswith("running_"):
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the results, each [B, ...]."""
        rows = [RowValue(*each) for each in zip(tensors, self.batched, strict=True)]
        return tuple(result.tensor for result in self.results(rows))

    def results(self, rows: Sequence[RowValue]) -> list[RowValue]:
        """Return the results as rows; on the meta device, their shapes alone."""
        filled = {name: fill_slots(item, rows) for name, item in self.arguments.items()}
        filled |= {name: getattr(self, name) for name in self.kept}
        if any(row.tensor.is_meta for row in rows):
            filled |= {name: filled[name].to("meta") for name in self.kept}
        found = self.function(*filled.values(), **self.attributes)
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
    arguments: dict[str, object] = {}
    batched: list[bool] = []
    kept: dict[str, Tensor] = {}
    for (name, static), value in zip(names, values, strict=True):
        arguments[name] = None
        if static:
            arguments[name] = _static(name, value)
        elif isinstance(value, RowValue) or (isinstance(value, Tensor) and constant):
            arguments[name] = Slot(len(batched))
            batched.append(isinstance(value, RowValue) and value.batched)
        elif isinstance(value, Tensor):
            kept[name] = value
    keywords = {name: value for name, value in bound.arguments.items() if name in given}
    return OnnxCall(function, arguments, batched, keywords, kept)


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
