"""Code of the user's is run here: what fails in it is refused by the name of the argument."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from holdfast.arguments import user_code
from holdfast.errors import InvalidInput
from holdfast.graph.layers import first_tensor


def run_function(argument: str, function: Callable[..., Any], *values: Any) -> Any:
    """Return what a function of the user's answers.

    Args:
        argument: Name of the argument that the function came in.
        function: The function.
        values: What it is given.

    Raises:
        InvalidInput: When it fails.
    """
    name = getattr(function, "__name__", type(function).__name__)
    with user_code(argument, f"{name} that fails", "a function that takes what it is given"):
        return function(*values)


def run_model(
    model: nn.Module, inputs: Tensor | Mapping[str, Tensor], argument: str = "inputs"
) -> Any:
    """Return what a model answers to rows.

    Args:
        model: The model.
        inputs: One tensor, or tensors by keyword.
        argument: Name of the argument that the rows came in.

    Raises:
        InvalidInput: When the model fails on them.
    """
    with user_code(argument, "rows on which the model fails", "rows that the model takes"):
        return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def logits_in(answer: Any) -> Tensor:
    """Return what counts of a model's answer: its `logits`, or its only or first tensor.

    Raises:
        InvalidInput: When there is no tensor of real numbers in it.
    """
    logits = getattr(answer, "logits", None)
    found = logits if isinstance(logits, Tensor) else first_tensor(answer)
    if found is None or found.is_complex():
        got = type(answer).__name__ if found is None else str(found.dtype).removeprefix("torch.")
        raise InvalidInput("model", f"a {got} as output", "a tensor of real numbers")
    return found
