"""The archive of an exported program: its graph as JSON, its weights as raw bytes."""

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import InvalidInput
from holdfast.files import open_file, reason, strict_json
from holdfast.sources.zips import checked_members, read_member

_WANTED = "an exported program (torch.export.save)"
TYPES: Mapping[int, torch.dtype] = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
"""Element types by their number in the archive's schema."""


def read_archive(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """Read the graph and the weights of an exported program; nothing else is opened.

    Args:
        path: The file.

    Returns:
        The graph module, as its JSON says; parameters, buffers and constants by their names.

    Raises:
        InvalidInput: When it is something else, or holds pickled or compiled parts that it needs.
    """
    with open_file(path, "model", _WANTED) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return _read(archive)
        except InvalidInput:
            raise
        except Exception as problem:  # a damaged file can break its reader anywhere
            raise InvalidInput("model", f"{str(path)!r} ({reason(problem)})", _WANTED) from problem


def _read(archive: zipfile.ZipFile) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    members = _members(archive)
    models = [name for name in members if name.startswith("models/")]
    if len(models) != 1 or not models[0].endswith(".json"):
        raise InvalidInput("model", f"{len(models)} programs in one file", "one")
    code = [name for name in members if name.startswith("data/aotinductor/")]
    if code:
        raise InvalidInput("model", f"compiled code ({code[0]})", "a program without it")
    name = models[0].removeprefix("models/").removesuffix(".json")
    stored = {
        key: read_member(archive, info)
        for key, info in members.items()
        if key == models[0] or key.startswith(("data/weights/", "data/constants/"))
    }
    order = read_member(archive, members["byteorder"]) if "byteorder" in members else b"little"
    document = strict_json(stored[models[0]])
    if order != b"little" or document["schema_version"]["major"] != 8:
        raise InvalidInput("model", "another version of the format", "major version 8")
    tensors: dict[str, Tensor] = {}
    for kind in ("weights", "constants"):
        config = f"data/{kind}/{name}_{kind}_config.json"
        if config not in stored:
            got = f"{kind} as a pickle (an old format), or none"
            raise InvalidInput("model", got, "a program saved by torch 2.9 or newer")
        for key, payload in strict_json(stored[config])["config"].items():
            tensors[key] = _tensor(key, payload, kind, stored)
    return document["graph_module"], tensors


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the members by their names below the one folder that all lie in.

    Raises:
        InvalidInput: When they lie in several, or are too many or too large.
    """
    members = checked_members(archive, "model")
    if len({name.partition("/")[0] for name in members}) != 1:
        raise InvalidInput("model", "an archive with scattered names", _WANTED)
    return {name.partition("/")[2]: info for name, info in members.items()}


def _tensor(
    name: str, payload: Mapping[str, Any], kind: str, stored: Mapping[str, bytes]
) -> Tensor:
    """Return one weight from its raw bytes.

    Raises:
        InvalidInput: When it would have to be unpickled.
        ValueError: When shape and bytes do not belong together.
    """
    file = payload["path_name"]
    if payload["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", file):
        raise InvalidInput("model", f"{name} stored as a pickle", "plain tensors")
    meta = payload["tensor_meta"]
    shape, strides = ([_size(size) for size in meta[key]] for key in ("sizes", "strides"))
    offset, dtype = _size(meta["storage_offset"]), TYPES[meta["dtype"]]
    raw = stored[f"data/{kind}/{file}"]
    if meta["layout"] != 7 or len(shape) != len(strides):
        raise ValueError(f"{name} is not a dense tensor")
    if math.prod(shape) == 0:
        return torch.empty(shape, dtype=dtype)
    reach = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 1
    # Repeated entries would let a few bytes stand for any number of them.
    if reach * dtype.itemsize > len(raw) or math.prod(shape) * dtype.itemsize > len(raw):
        raise ValueError(f"{name} of shape {shape} in {len(raw)} bytes")
    flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype)
    return flat.as_strided(shape, strides, offset).clone()


def _size(entry: Mapping[str, Any]) -> int:
    """Return a size that is a plain number.

    Raises:
        ValueError: When it is an expression, or negative.
    """
    size = entry.get("as_int")
    if not isinstance(size, int) or size < 0:
        raise ValueError(f"a size {dict(entry)}")
    return size
