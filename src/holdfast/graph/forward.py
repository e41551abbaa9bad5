"""Code of the user's is run here: what fails in it is refused by the name of the argument."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from holdfast.errors import HoldfastError, InvalidInput
from holdfast.graph.layers import first_tensor


@contextmanager
def user_code(argument: str, got: str, wanted: str) -> Iterator[None]:
    """Refuse an argument whose own code fails inside, whatever it raises.

    Args:
        argument: Name of the argument as the user wrote it.
        got: What it turned out to be, such as "rows on which the model fails".
        wanted: What would have been accepted.

    Yields:
        Once.

    Raises:
        InvalidInput: When something fails.
        Exception: Refusals and a lack of memory, as they are.
    """
    try:
        yield
    except Exception as problem:
        scarce = "allocate memory" in str(problem) or "out of memory" in str(problem)
        if scarce or isinstance(problem, HoldfastError | MemoryError):
            raise
        why = f"{type(problem).__name__}: {problem}"
        raise InvalidInput(argument, f"{got} ({why})", wanted) from problem


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
