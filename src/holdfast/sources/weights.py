"""Weights from a safetensors file, checked before they are made."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from holdfast.errors import InvalidInput
from holdfast.files import read_file, reason, strict_json
from holdfast.sources.files import check_count


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
    wanted = "a safetensors file"
    content = read_file(path, "weights", wanted)
    try:
        _check_header(content)
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as problem:
        raise InvalidInput("weights", f"{str(path)!r} ({reason(problem)})", wanted) from problem
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InvalidInput("weights", f"{path}: NaN or infinity in {name}", "finite weights")
    return tensors


def _check_header(content: bytes) -> None:
    """Refuse a header that the library reads too trustingly.

    Raises:
        ValueError: When it is none, a name comes twice, or there are too many.
    """
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > min(2**26, len(content) - 8):
        raise ValueError("no header")
    header = strict_json(content[8 : 8 + size])
    if not isinstance(header, dict):
        raise ValueError("no header")
    check_count("tensors", len(header))
