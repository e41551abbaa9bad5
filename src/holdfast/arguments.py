"""Arguments of verbs as people type them: each is read as meant, or refused by its name.

Every check takes what was typed, with the name of the argument, and returns it in the one form in
which Holdfast holds it: a norm as a float, class numbers as int64 [N], rows as a dense tensor.
"""

import difflib
import math
import numbers
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.errors import HoldfastError, HoldfastWarning, InvalidInput, one_line
from holdfast.gradients import with_gradients
from holdfast.wrappers import unwrapped

Entry = TypeVar("Entry")

NORMS = (1.0, 2.0, math.inf)


def shown(value: object) -> str:
    """Return how a refused value is repeated: numbers and names as typed, all else by its kind.

    >>> shown(3), shown("two"), shown([1, 2]), shown(torch.zeros(2))
    ('3', "'two'", 'list', 'Tensor of shape (2,)')
    """
    if isinstance(value, Tensor):
        plain = _plain(value)
        return f"Tensor of shape {tuple(plain.shape)}" if not plain.is_nested else "nested Tensor"
    if isinstance(value, int) and abs(value) > 10**40:
        return f"a whole number of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | numbers.Number):
        return str(value)
    if isinstance(value, str):
        return one_line(repr(value if len(value) < 80 else f"{value[:76]}..."))
    return type(value).__name__


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


def check_model(model: object) -> nn.Module:
    """Return the model, without wrappers that compute the same, such as that of `torch.compile`.

    Raises:
        InvalidInput: When it is no module, or tensors are made without values at present.
    """
    if not isinstance(model, nn.Module):
        wanted = "a torch.nn.Module (put a function into the forward of one)"
        raise InvalidInput("model", shown(model), wanted)
    if torch.get_default_device().type == "meta":
        raise InvalidInput("torch.get_default_device()", "meta", "a device with values")
    return unwrapped(model)


def check_norm(norm: object) -> float:
    """Return a norm as a float.

    Args:
        norm: 1, 2 or `math.inf`; or "l1", "l2", "linf", "1", "2", "inf".

    Raises:
        InvalidInput: For any other value.

    >>> check_norm("linf"), check_norm(2)
    (inf, 2.0)
    """
    typed = norm.lower().removeprefix("l") if isinstance(norm, str) else norm
    value = _number(typed)
    if value not in NORMS:
        raise InvalidInput("norm", shown(norm), "1, 2 or inf")
    return value


def check_number(
    argument: str, value: object, valid: Callable[[float], bool], wanted: str
) -> float:
    """Return a number as a float.

    Args:
        argument: Name of the argument as the user wrote it.
        value: What was typed: any real number, or its text, such as "0.1" or "2/255".
        valid: Whether a number will do; it must not hold for NaN.
        wanted: What will do, for the message.

    Raises:
        InvalidInput: When it is no number, or will not do.

    >>> check_number("epsilon", "1/4", lambda e: e >= 0, "a distance, at least 0")
    0.25
    """
    number = _number(value)
    if not valid(number):
        raise InvalidInput(argument, shown(value), wanted)
    return number


def check_distance(argument: str, value: object, also: str = "") -> float:
    """Return a finite number, at least 0; see `check_number`."""
    wanted = f"a finite distance, at least 0{also}"
    return check_number(argument, value, lambda number: 0 <= number < math.inf, wanted)


def check_share(argument: str, value: object) -> float:
    """Return a probability strictly between 0 and 1; see `check_number`."""
    return check_number(argument, value, lambda p: 0 < p < 1, "a probability between 0 and 1")


def check_whole(
    argument: str, value: object, wanted: str, least: float = -math.inf, most: float = math.inf
) -> int:
    """Return a whole number from the least to the most that will do; see `check_number`."""
    typed = int(value) if isinstance(value, numbers.Integral) else None
    if typed is None or isinstance(value, bool) or not least <= typed <= most:
        raise InvalidInput(argument, shown(value), wanted)
    return typed


def check_threshold(threshold: object) -> float:
    """Return the logit above which a model of one logit means class 1."""
    return check_number("threshold", threshold, math.isfinite, "a finite logit")


def check_seed(seed: object) -> int:
    """Return the seed of a random generator of torch."""
    return check_whole("seed", seed, "a whole number, at least 0 and below 2**63", 0, 2**63 - 1)


def _number(value: object) -> float:
    """Return a real number or its text as a float; NaN for all else."""
    if isinstance(value, Tensor) and value.dim() == 0 and not value.is_meta:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, str | numbers.Real):
        return math.nan
    try:
        if isinstance(value, str) and "/" in value:
            value = Fraction(value.replace(" ", ""))
        return float(value)
    except (ValueError, ZeroDivisionError, OverflowError):
        return math.nan


def check_tensor(argument: str, value: object, wanted: str) -> Tensor:
    """Return a plain dense tensor of real numbers, cut off from what it was computed from.

    Args:
        argument: Name of the argument as the user wrote it.
        value: What was typed: a tensor, an array, or a list of numbers or of lists of them.
        wanted: What will do, for the message.

    Raises:
        InvalidInput: When it is nothing of this, or a tensor without real numbers in it: sparse,
            nested, quantised, complex, or on the meta device.
    """
    tensor = _plain(value) if isinstance(value, Tensor) else _tensor_of(argument, value, wanted)
    if tensor.is_nested or tensor.layout != torch.strided:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise InvalidInput(argument, f"a {kind} tensor", f"{wanted}, dense (see Tensor.to_dense)")
    if tensor.is_meta:
        raise InvalidInput(argument, "a tensor on the meta device", f"{wanted}, with values")
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind in {"uint16", "uint32", "uint64"}:  # hardly any operation takes these
        tensor = tensor.long()
    elif not re.fullmatch("bool|u?int8|int(16|32|64)|b?float(16|32|64)", kind):
        raise InvalidInput(argument, f"{kind} values", f"{wanted}, of real numbers")
    plain = tensor.detach().as_subclass(Tensor).resolve_neg()
    # What was made in inference mode cannot take part in derivatives; copies of it can.
    with with_gradients():
        return plain.clone() if plain.is_inference() else plain


def _plain(tensor: Tensor) -> Tensor:
    """Return a tensor of a subclass as one of PyTorch's own."""
    with torch._C.DisableTorchFunctionSubclass():
        own = type(tensor) in (Tensor, nn.Parameter) or tensor.is_nested
        return tensor if own or tensor.layout != torch.strided else tensor.as_subclass(Tensor)


def _tensor_of(argument: str, value: object, wanted: str) -> Tensor:
    """Return an array, or nested lists of numbers, as a tensor of its own."""
    if not isinstance(value, Sequence) and not hasattr(value, "__array__"):
        raise InvalidInput(argument, shown(value), wanted)
    # Arrays of other libraries may raise anything.
    with user_code(argument, f"a {shown(value)} that is no array of numbers", wanted):
        array = np.array(value)
        if array.dtype.kind in "US":
            got = f"words such as {shown(str(array.flat[0]))}" if array.size else "no words"
            raise InvalidInput(argument, got, f"{wanted}; numbers alone")
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def check_inputs(inputs: object, argument: str = "inputs") -> Tensor:
    """Return rows of numbers, in the model's units; see `check_tensor`.

    Args:
        inputs: [N, ...].
        argument: Name of the argument as the user wrote it.

    Raises:
        InvalidInput: When there is no row, or the numbers are pixels in bytes.
    """
    wanted = "one tensor with batch dimension"
    if isinstance(inputs, Mapping):
        raise InvalidInput(argument, f"a mapping with {list(inputs)}", wanted)
    rows = check_tensor(argument, inputs, wanted)
    if rows.dim() == 0 or rows.numel() == 0:
        raise InvalidInput(argument, f"shape {tuple(rows.shape)}", "at least one row of numbers")
    if rows.dtype == torch.uint8:
        wanted = "floating-point values: divide by 255 (or what the model was trained with) first"
        raise InvalidInput(argument, "uint8 values", wanted)
    return rows


def check_example(example: object) -> Tensor | dict[str, Tensor]:
    """Return the tensors of an example.

    Args:
        example: A tensor [N, ...], or a mapping of keywords to such.

    Raises:
        InvalidInput: When one is not a tensor with at least one row, or rows differ in number.
    """
    wanted = "a tensor with at least one row (batch dimension first)"
    named = example if isinstance(example, Mapping) else {"example": example}
    tensors = {name: check_tensor(str(name), value, wanted) for name, value in named.items()}
    for name, tensor in tensors.items():
        if tensor.dim() == 0 or tensor.numel() == 0:
            raise InvalidInput(str(name), tuple(tensor.shape), wanted)
    rows = {name: len(tensor) for name, tensor in tensors.items()}
    if len(set(rows.values())) != 1 or not all(isinstance(name, str) for name in rows):
        wanted = "keywords with the same number of rows in every tensor"
        raise InvalidInput("example", f"rows {rows}", wanted)
    return tensors if isinstance(example, Mapping) else tensors["example"]


def fit_inputs(inputs: Tensor, model: nn.Module) -> Tensor:
    """Return rows in the floating-point type of the model's weights.

    Args:
        inputs: [N, ...].
        model: One whose weights are all of one type, and which takes rows of that type alone; rows
            stay as they are for any other.

    Warns:
        HoldfastWarning: When that rounds them, because then all that is said is about other rows.
    """
    state = [*model.parameters(), *model.buffers()]
    types = {value.dtype for value in state if value.is_floating_point()}
    if not inputs.is_floating_point() or types not in ({torch.float32}, {torch.float64}):
        return inputs
    rounded = inputs.to(*types)
    ends = (rows.double().nan_to_num(0.0, 0.0, 0.0) for rows in (inputs, rounded))
    if not torch.equal(*ends):
        if _takes(model, inputs[:1]):
            return inputs  # it rounds them itself, a step function that `capture` refuses
        before, after = (str(rows.dtype).removeprefix("torch.") for rows in (inputs, rounded))
        said = f"inputs: {before} rows were rounded to {after}, the type of the model's weights"
        warnings.warn(f"{said}; the results are about these", HoldfastWarning, stacklevel=3)
    return rounded


def _takes(model: nn.Module, row: Tensor) -> bool:
    """Return whether a model runs on a row in the type that the row has."""
    try:
        with torch.no_grad():
            model(row)
    except Exception:
        return False
    return True


def check_labels(labels: object, rows: int) -> Tensor:
    """Return labels as int64 [N], or targets in floating point [N, ...]; see `check_tensor`.

    Args:
        labels: Class numbers or truth values, [N] or [N, 1]; or targets.
        rows: Number of inputs.

    Raises:
        InvalidInput: When there is not one for every input.
    """
    wanted = f"[{rows}], one per input"
    tensor = check_tensor("labels", labels, wanted)
    single = tensor.shape in ((rows,), (rows, 1))
    if tensor.shape[:1] != (rows,) or not (single or tensor.is_floating_point()):
        columns = (
            tensor.dim() == 2 and tensor.shape[:1] == (rows,) and not tensor.is_floating_point()
        )
        more = " (labels.argmax(1), where each class has a column)" if columns else ""
        raise InvalidInput("labels", f"shape {tuple(tensor.shape)}", wanted + more)
    return tensor if tensor.is_floating_point() else tensor.long().reshape(rows)


def check_classes(labels: object, rows: int, classes: int) -> Tensor:
    """Return class labels as int64 [N]; see `check_labels`.

    Args:
        labels: [N] or [N, 1].
        rows: Number of inputs.
        classes: Number of logits.

    Raises:
        InvalidInput: When they are not N whole numbers from 0 to classes - 1.
    """
    tensor = check_labels(labels, rows)
    if tensor.is_floating_point():
        raise InvalidInput(
            "labels", f"{tensor.dtype} values", "integer class numbers (labels.long())"
        )
    low, high = (int(end) for end in tensor.aminmax())
    if low < 0 or high >= classes:
        raise InvalidInput("labels", f"values from {low} to {high}", f"0 to {classes - 1}")
    return tensor


def check_targets(targets: Tensor, rows: int, outputs: int) -> Tensor:
    """Return the targets of a regression as float64, [N, outputs].

    Args:
        targets: [N, outputs], or [N] for one output.
        rows: Number of inputs.
        outputs: Number of outputs.

    Raises:
        InvalidInput: When their shape is another, or one is not finite.
    """
    wanted = f"[{rows}, {outputs}]" if outputs > 1 else f"[{rows}] or [{rows}, 1]"
    if targets.shape != (rows, outputs) and (outputs > 1 or targets.shape != (rows,)):
        got = f"targets (floating point) of shape {tuple(targets.shape)}"
        raise InvalidInput("labels", got, f"{wanted}; class numbers are integers (labels.long())")
    if not bool(torch.isfinite(targets).all()):
        raise InvalidInput("labels", "targets that are not finite", "finite targets")
    return targets.detach().cpu().double().reshape(rows, outputs)


def check_choice(argument: str, value: object, known: Iterable[str]) -> str:
    """Return a name that the user chose, or say which there are.

    Args:
        argument: Name of the argument as the user wrote it, for the message.
        value: What was typed.
        known: The names that exist.

    Raises:
        InvalidInput: If there is no such name; the nearest ones come last in the message.
    """
    names = list(known)
    if isinstance(value, str) and value in names:
        return value
    near = value if isinstance(value, str) else ""
    raise InvalidInput(argument, shown(value), known_names(near, names))


def look_up(argument: str, name: object, table: Mapping[str, Entry]) -> Entry:
    """Return the entry of `table` called `name`, or say which names there are.

    Args:
        argument: Name of the argument as the user wrote it, for the message.
        name: What the user asked for.
        table: The names that exist.

    Raises:
        InvalidInput: If there is no such name; the nearest ones come last in the message.
    """
    return table[check_choice(argument, name, table)]


def known_names(name: str, table: Iterable[str], most: int = 12) -> str:
    """Return "one of a, b, c", with the nearest to `name` singled out.

    >>> known_names("fc", ["conv", "fc1", "fc2"])
    "one of conv, fc1, fc2 (did you mean 'fc2' or 'fc1'?)"
    """
    every = list(table)
    close = difflib.get_close_matches(name, every, n=3)
    hint = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
    shown = ", ".join(every[:most]) + (", ..." if len(every) > most else "")
    return f"one of {shown}{hint}"
