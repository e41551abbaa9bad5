"""Documents and arrays in files, read strictly: what is out of the ordinary is `Rejected`."""

import hashlib
import json
import math
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from flint import fmpq

_CODES = {"F32": "f", "F64": "d", "I64": "q"}


class Rejected(Exception):
    """The file does not prove what it says, or is no certificate file; one line says why."""


def require(condition: object, why: str) -> None:
    """Reject with the reason, in ASCII that commands no terminal, unless the condition holds."""
    if not condition:
        raise Rejected(ascii(why)[1:-1][:300])


def read_once(path: Path) -> bytes:
    """Return the bytes of a regular file, not of a link: what is hashed is what is parsed."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            require(os.fstat(handle).st_size <= 2**32, f"{path.name}: too large")
            return file.read(2**32)
    except (OSError, ValueError) as problem:
        raise Rejected(f"{path.name!r} cannot be read ({type(problem).__name__})") from problem


def read_json(raw: bytes) -> Any:
    """Parse JSON that has no duplicate keys, decimal fractions, NaN or infinity."""

    def refuse(number: str) -> NoReturn:
        raise Rejected(f"a number ({number[:20]}) that is not a hexadecimal float")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        require(len(dict(pairs)) == len(pairs), "a key appears twice")
        return dict(pairs)

    try:
        own = {"parse_float": refuse, "parse_constant": refuse, "object_pairs_hook": unique}
        return json.loads(raw.decode("utf-8"), **own)
    except (ValueError, RecursionError) as problem:
        raise Rejected(f"not a JSON document ({type(problem).__name__})") from problem


def conform(value: Any, spec: Any, where: str) -> Any:
    """Return a value that has the form of `spec`; `float` is for what `float.hex` writes."""
    if isinstance(spec, dict):
        same = isinstance(value, dict) and set(value) == set(spec)
        require(same, f"{where}: missing or unknown keys, wanted {', '.join(spec)}")
        return {key: conform(value[key], spec[key], f"{where}.{key}") for key in spec}
    if isinstance(spec, list):
        require(isinstance(value, list), f"{where} is not a list")
        return [conform(entry, spec[0], where) for entry in value]
    known = type(value) is (str if spec is float else spec)
    require(known and (spec is not int or -1 <= value < 2**40), f"{where} has another type")
    if spec is not float:
        return value
    with suppress(ValueError, OverflowError):
        if (number := float.fromhex(value)).hex() == value != "nan":
            return number
    raise Rejected(f"{where} is not a hexadecimal float")


def rational(number: float) -> fmpq:
    """Return a finite float as the rational number that it is."""
    require(math.isfinite(number), "a number is not finite")
    return fmpq(*number.as_integer_ratio())


def digest(document: dict[str, Any]) -> str:
    """Return the SHA-256 of everything in a document but its own digest."""
    rest = {key: value for key, value in document.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Tensor:
    """An array: its type, its shape and its little-endian bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def __post_init__(self) -> None:
        fits = math.prod(self.shape) * struct.calcsize(_CODES[self.dtype]) == len(self.data)
        require(fits and min(self.shape, default=0) >= 0, "an array is cut off")

    @property
    def sha256(self) -> str:
        """The hash of type, shape and bytes."""
        return hashlib.sha256(f"{self.dtype} {list(self.shape)} ".encode() + self.data).hexdigest()

    def numbers(self) -> list:
        """Return the entries as rational numbers."""
        entries = struct.unpack(f"<{math.prod(self.shape)}{_CODES[self.dtype]}", self.data)
        return list(map(fmpq if self.dtype == "I64" else rational, entries))

    def row(self, k: int) -> "Tensor":
        """Return one entry of the first dimension."""
        size = len(self.data) // self.shape[0]
        return Tensor(self.dtype, self.shape[1:], self.data[k * size : (k + 1) * size])

    def transposed(self) -> "Tensor":
        """Return an array, its dimensions after the first as one, the other way round."""
        m, size = self.shape[0], struct.calcsize(_CODES[self.dtype])
        n = math.prod(self.shape[1:])
        starts = [(i * n + j) * size for j in range(n) for i in range(m)]
        return Tensor(self.dtype, (n, m), b"".join(self.data[s : s + size] for s in starts))


def read_safetensors(raw: bytes) -> dict[str, Tensor]:
    """Return the arrays of a safetensors file; those of other types are left out."""
    start = 8 + int.from_bytes(raw[:8], "little")
    require(start <= min(len(raw), 2**25), "not a safetensors file")
    header, found = read_json(raw[8:start]), {}
    require(isinstance(header, dict) and len(header) <= 2**16, "not a safetensors file")
    for name in header.keys() - {"__metadata__"}:
        entry = conform(header[name], {"dtype": str, "shape": [int], "data_offsets": [int]}, name)
        first, last = (start + offset for offset in [*entry["data_offsets"], 0, 0][:2])
        if entry["dtype"] in _CODES:
            found[name] = Tensor(entry["dtype"], tuple(entry["shape"]), raw[first:last])
    return found
