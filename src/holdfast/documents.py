"""Results as documents: written bit by bit, read back by the names and types of their fields."""

import base64
import contextlib
import dataclasses
import enum
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor

from holdfast.errors import InvalidInput, visible
from holdfast.files import StrPath, read_json, reason, write_whole

Result = TypeVar("Result")

AnyText = Annotated[str, "as it is"]
"""A text of the user's data, which may hold letters that do not print."""

_COLUMNS: Mapping[torch.dtype, type] = {torch.float64: float, torch.int64: int}
"""Types of the tensors [N] that are written entry by entry, and of their entries."""


def encode(value: Any) -> Any:
    """Return a value made of what JSON knows, every number bit by bit, for `decode`.

    Floats are written as `float.hex` does. Of a tensor [N] in float64 or int64 the entries are
    written, of any other its bytes. Of dataclasses, fields that their repr leaves out are no data.

    >>> encode({"radius": (1.5, float("inf"))})
    {'radius': ['0x1.8000000000000p+0', 'inf']}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: encode(getattr(value, name)) for name in _kinds(type(value))}
    if isinstance(value, Mapping):
        return {str(key): encode(entry) for key, entry in value.items()}
    if isinstance(value, Tensor):
        column = value.dim() == 1 and value.dtype in _COLUMNS
        return encode(value.tolist()) if column else _packed(value)
    if isinstance(value, list | tuple):
        return [encode(entry) for entry in value]
    if isinstance(value, enum.Enum):
        return value.name
    return value.hex() if isinstance(value, float) else value


def _packed(tensor: Tensor) -> dict[str, Any]:
    content = base64.b64encode(tensor.detach().cpu().contiguous().numpy().tobytes())
    kind = str(tensor.dtype).removeprefix("torch.")
    return {"dtype": kind, "shape": list(tensor.shape), "base64": content.decode("ascii")}


@functools.cache
def _kinds(kind: type) -> dict[str, Any]:
    """Return the types of a dataclass' fields by name, those alone that are data."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.repr}


def decode(kind: Any, value: Any, exact: bool = True, field: str = "") -> Any:
    """Return a value of a type from a document; nothing is missing, unknown or of another type.

    Args:
        kind: A dataclass, an enumeration, `bool`, `int`, `float`, `str`, `Tensor`,
            `tuple[X, ...]`, `tuple[X, Y]`, a dictionary with texts or numbers as keys, a union, or
            `Annotated[Tensor, dtype]` for a column of float64 or int64 numbers, [N], or `AnyText`.
        value: As parsed from JSON.
        exact: Whether floats are as `encode` writes them; else they are finite JSON numbers.
        field: Where the value stands, for the message.

    Raises:
        ValueError: When the value is something else, naming the field.

    >>> decode(tuple[float | None, ...], ["0x1.8000000000000p+0", None])
    (1.5, None)
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in _COMPOSED:
        return _COMPOSED[origin](args, value, exact, field)
    if kind is Tensor:
        return _tensor(value, field)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, exact, field)
    return _scalar(kind, value, exact, field)


def _require(holds: bool, value: Any, field: str, wanted: str) -> None:
    """Say which field is something else.

    Raises:
        ValueError: Unless the condition holds.
    """
    if not holds:
        shown = value if isinstance(value, str | int | float | None) else type(value).__name__
        raise ValueError(f"{field or 'the document'} is {shown!r:.60}, wanted {wanted}")


def _union(args: tuple, value: Any, exact: bool, field: str) -> Any:
    *others, last = (each for each in args if each is not type(None))
    if value is None and type(None) in args:
        return None
    for each in others:
        with contextlib.suppress(ValueError):
            return decode(each, value, exact, field)
    return decode(last, value, exact, field)


def _dictionary(args: tuple, value: Any, exact: bool, field: str) -> dict[Any, Any]:
    _require(isinstance(value, dict), value, field, "a dictionary")
    found = value.items()
    return {_key(args[0], k, field): decode(args[1], v, exact, f"{field}.{k}") for k, v in found}


def _tuple(args: tuple, value: Any, exact: bool, field: str) -> tuple:
    _require(isinstance(value, list), value, field, "a list")
    kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
    _require(len(kinds) == len(value), value, field, f"{len(kinds)} entries")
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(decode(kind, one, exact, f"{field}[{k}]") for k, (kind, one) in pairs)


def _annotated(args: tuple, value: Any, exact: bool, field: str) -> Tensor | str:
    if args[0] is str:
        _require(isinstance(value, str), value, field, "a text")
        return value
    return torch.tensor(_tuple((_COLUMNS[args[1]], ...), value, exact, field), dtype=args[1])


_COMPOSED = {typing.Union: _union, types.UnionType: _union, dict: _dictionary}
_COMPOSED |= {tuple: _tuple, Annotated: _annotated}
"""How types that are made of others are read, by their origin."""


def _dataclass(kind: Any, value: Any, exact: bool, field: str) -> Any:
    """Return a dataclass.

    Raises:
        ValueError: When a field is missing, unknown or something else.
    """
    known = _kinds(kind)
    _require(isinstance(value, dict), value, field, f"the fields of {kind.__name__}")
    odd = ", ".join(sorted(set(value) ^ set(known)))
    if odd:
        raise ValueError(f"missing or unknown entries {odd:.200}")
    start = f"{field}." if field else ""
    return kind(**{k: decode(known[k], value[k], exact, f"{start}{k}") for k in known})


def _key(kind: Any, name: str, field: str) -> Any:
    """Return the key of a dictionary: a text, or where `kind` is something else a number.

    Raises:
        ValueError: When it is not as `encode` writes it.
    """
    if kind is str:
        return _scalar(str, name, True, field)
    for number in (int, float):
        with contextlib.suppress(ValueError):
            if str(number(name)) == name != "nan":
                return number(name)
    raise ValueError(f"{field} has the key {name!r:.60}, wanted a number")


def _tensor(value: Any, field: str) -> Tensor:
    """Return a tensor from its entries, where it is a column, or from its bytes.

    Raises:
        ValueError: When type, shape and bytes do not belong together.
    """
    if isinstance(value, list):
        _require(bool(value), "empty", field, "a tensor")
        dtype = torch.float64 if isinstance(value[0], str) else torch.int64
        return decode(Annotated[Tensor, dtype], value, True, field)
    known = {"float32": torch.float32, "float64": torch.float64, "int64": torch.int64}
    try:
        content = bytearray(base64.b64decode(value["base64"], validate=True))
        dtype = known[value["dtype"]]
        flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        shape = decode(tuple[int, ...], value["shape"])
        _require(min(shape, default=0) >= 0, shape, field, "sizes of at least 0")
        return flat.reshape(shape)
    except (TypeError, ValueError, LookupError, RuntimeError) as problem:
        raise ValueError(f"{field} is no tensor ({reason(problem)})") from problem


def _scalar(kind: type, value: Any, exact: bool, field: str) -> Any:
    """Return a number, a truth value, a text that prints, or a member of an enumeration.

    Raises:
        ValueError: When it is something else, or NaN.
    """
    if issubclass(kind, enum.Enum):
        names = [*kind.__members__]
        _require(value in names, value, field, f"one of {', '.join(names)}")
        return kind[value]
    if kind is float and exact:
        number = math.nan
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            number = float.fromhex(value)
        _require(number.hex() == value != "nan", value, field, "a number as float.hex writes it")
        return number
    if kind is float:
        fits = type(value) in (int, float) and math.isfinite(value)
    elif kind is int:
        fits = type(value) is int and -(2**63) <= value < 2**63
    else:
        fits = type(value) is kind and (kind is bool or visible(value) == value)
    words = {float: "a finite number", int: "a whole number", str: "a text that prints"}
    _require(fits, value, field, words.get(kind, "true or false"))
    return value


def save_result(result: Any, version: str, path: StrPath) -> None:
    """Write a result as JSON, all or nothing; every number is kept exactly.

    Args:
        result: A dataclass.
        version: Name and version of the format.
        path: The file; one that Holdfast wrote before is replaced.

    Raises:
        InvalidInput: When the path cannot be written.
    """
    document = {"format": version} | encode(result)
    document["digest"] = digest(document)
    write_whole(path, json.dumps(document, indent=1) + "\n", "path")


def load_result(kind: type[Result], version: str, path: StrPath) -> Result:
    """Return a result that `save_result` wrote, bit by bit as it was.

    Args:
        kind: A dataclass with a method `coherent`: whether its fields agree with each other.
        version: Name and version of the format.
        path: The file.

    Raises:
        InvalidInput: When the file is none of this kind and version, naming the field, or was
            changed after it was written.
    """
    document = read_json(path, "path")
    found = document.get("digest") if isinstance(document, dict) else None
    result = checked_result(kind, document, {"format": version, "digest": found}, path)
    check_digest(document, path)
    return result


class Saved:
    """A dataclass that has a file of its own, with a method `coherent` as for `load_result`."""

    FORMAT: ClassVar[str]
    """Name and version of the file's format."""

    def save(self, path: StrPath) -> None:
        """Write everything as JSON, all or nothing; every number is kept exactly.

        Args:
            path: The file; one that Holdfast wrote before is replaced.

        Raises:
            InvalidInput: When the path cannot be written.
        """
        save_result(self, self.FORMAT, path)

    @classmethod
    def load(cls, path: StrPath) -> Self:
        """Return what `save` wrote, bit by bit; what it claims is as the file says.

        Args:
            path: The file.

        Raises:
            InvalidInput: When it is none that `save` wrote, or was changed after it was written.
        """
        return load_result(cls, cls.FORMAT, path)


def digest(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything in a document but its own digest."""
    rest = {key: value for key, value in document.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check_digest(document: Mapping[str, Any], path: StrPath) -> None:
    """Refuse a document that has changed, by accident, since it was written.

    Raises:
        InvalidInput: When its digest is not that of its content.
    """
    if document.get("digest") != digest(document):
        got = f"{str(path)!r}, whose digest is not that of its content"
        raise InvalidInput("path", got, "a file that nobody changed")


def checked_result(
    kind: type[Result], document: Any, fixed: Mapping[str, Any], path: StrPath
) -> Result:
    """Return the result in a document.

    Args:
        kind: As for `load_result`.
        document: As parsed from JSON.
        fixed: Entries that it has beside the fields, with the only value that each may have.
        path: The file, for the message.

    Raises:
        InvalidInput: When the document is none of this kind, naming the field.
    """
    wanted = f"a file that {kind.__name__}.save wrote"
    try:
        _require(isinstance(document, dict), document, "", f"the fields of {kind.__name__}")
        for name, value in fixed.items():
            _require(document.get(name) == value, document.get(name), name, repr(value))
        fields = {name: value for name, value in document.items() if name not in fixed}
        result: Any = decode(kind, fields)
    except (ValueError, OverflowError) as problem:
        raise InvalidInput("path", f"{str(path)!r} ({problem})", wanted) from problem
    if not result.coherent():
        got = f"{str(path)!r}, whose entries contradict each other"
        raise InvalidInput("path", got, wanted)
    return result
