"""Weights from a safetensors file, checked before they are made."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from holdfast.errors import InvalidInput
from holdfast.files import read_file, reason, strict_json

_WANTED = "a safetensors file"
_MOST_TENSORS = 2**16
_MOST_HEADER = 2**26


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name.

    Args:
        path: The file.

    Returns:
        The tensors, floating-point ones finite.

    Raises:
        InvalidInput: When the file is damaged, names a tensor twice, holds far more tensors than
            any model, or one with NaN or infinity.
    """
    content = read_file(path, "weights", _WANTED)
    _check_header(content, path)
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as problem:
        raise InvalidInput("weights", f"{path} ({reason(problem)})", _WANTED) from problem
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InvalidInput("weights", f"{path}: NaN or infinity in {name}", "finite weights")
    return tensors


def _check_header(content: bytes, path: Path) -> None:
    """Refuse a header that the library reads too trustingly.

    Raises:
        InvalidInput: When a name comes twice, or there are too many.
    """
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > min(_MOST_HEADER, len(content) - 8):
        raise InvalidInput("weights", f"{path}, which is something else", _WANTED)
    try:
        header = strict_json(content[8 : 8 + size])
    except ValueError as problem:
        raise InvalidInput("weights", f"{path} ({reason(problem)})", _WANTED) from problem
    if not isinstance(header, dict):
        raise InvalidInput("weights", f"{path}, which is something else", _WANTED)
    if len(header) > _MOST_TENSORS:
        raise InvalidInput("weights", f"{len(header)} tensors", f"at most {_MOST_TENSORS}")
