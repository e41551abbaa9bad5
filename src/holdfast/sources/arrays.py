"""Arrays from an `.npz` file: each is measured by its headers before it is unpacked."""

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from holdfast.errors import InvalidInput
from holdfast.files import MOST_BYTES, open_file, reason
from holdfast.sources.zips import checked_members

Names = tuple[str | None, str | None]
"""Of the array of inputs and the one of labels; None for the usual ones."""


def read_npz(
    path: Path, names: Names, rows: int | None, labelled: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read inputs and labels from an `.npz` file.

    Args:
        path: The file.
        names: Of the arrays of inputs and labels; None for the usual ones, test before training
            data.
        rows: How many of the first rows to read; None for all.
        labelled: Whether labels are read, and must be there.

    Returns:
        Inputs [N, ...], and labels [N]: numbers, truth values or words; None where they are not
        read.

    Raises:
        InvalidInput: When the file is something else, its headers contradict each other, an array
            holds objects, or it unpacks to far more than it is.
        MemoryError: When an array does not fit.
    """
    wanted = "an .npz file of plain arrays"
    with open_file(path, "data", wanted) as file:
        if not zipfile.is_zipfile(file):
            raise InvalidInput("data", f"{str(path)!r}, which is something else", wanted)
        try:
            with zipfile.ZipFile(file) as archive:
                members = {
                    name.removesuffix(".npy"): info
                    for name, info in checked_members(archive, "data").items()
                    if name.endswith(".npy")
                }
                place, answers = _chosen(members, names, labelled)
                inputs = _read(archive, members[place], place, rows)
                labels = None
                if labelled:
                    labels = _read(archive, members[answers], answers, rows, words=True)
        except (InvalidInput, MemoryError):
            raise
        except Exception as problem:  # a damaged file can break its reader anywhere
            raise InvalidInput("data", f"{str(path)!r} ({reason(problem)})", wanted) from problem
    # Truth values are the numbers 0 and 1, and no bytes of pixels.
    plain = inputs.astype(np.float32) if inputs.dtype == bool else inputs
    return plain, labels


def _chosen(
    members: Mapping[str, zipfile.ZipInfo], names: Names, labelled: bool
) -> tuple[str, str]:
    """Return the names of the two arrays; an empty one without labels, where none are needed.

    Raises:
        InvalidInput: When there are none of the usual names, several, or none of those asked for.
    """
    usual = (
        *(("inputs", "labels"), ("x", "y"), ("X", "y"), ("X", "Y"), ("x_test", "y_test")),
        *(("X_test", "y_test"), ("data", "target"), ("data", "labels"), ("images", "labels")),
        *(("features", "labels"), ("test_images", "test_labels")),
    )
    inputs, labels = names
    pairs = [
        (x, y)
        for x, y in usual
        if {x, y} <= members.keys() and inputs in (None, x) and labels in (None, y)
    ]
    if len(pairs) > 1:
        got = f"arrays {' and '.join(' with '.join(pair) for pair in pairs)}, all usual names"
        wanted = " or ".join(f"?inputs={x}&labels={y}" for x, y in pairs)
        raise InvalidInput("data", got, wanted)
    if pairs:
        return pairs[0]
    # One of the two may have another name.
    found = [inputs or next((x for x, _ in usual if x in members and x != labels), "")]
    found += [labels or next((y for _, y in usual if y in members and y != found[0]), "")]
    alone = not labelled and labels is None
    if not found[0] and alone and len(members) == 1:
        found[0] = next(iter(members))
    if found[0] in members and (found[1] in members or (alone and not found[1])):
        return found[0], found[1]
    shown = [name[:40] for name in members][:12]
    got = f"arrays {', '.join(shown)}" if shown else "no array"
    if len(shown) == 1 and labelled:
        wanted = "inputs and labels: np.savez(PATH, inputs=..., labels=...)"
    elif len(shown) < 2:
        wanted = "np.savez(PATH, inputs=..., labels=...)"
    else:
        wanted = f"?inputs=NAME&labels=NAME, such as ?inputs={shown[0]}&labels={shown[1]}"
    raise InvalidInput("data", got, wanted)


def _read(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    name: str,
    rows: int | None,
    words: bool = False,
) -> np.ndarray:
    """Return one array, or its first rows.

    Raises:
        InvalidInput: When it does not hold plain numbers.
        ValueError: When header and length contradict each other.
    """
    with archive.open(info) as member:
        head = io.BytesIO(member.read(2**14))  # the header of an array is shorter
    shape, fortran, dtype = _header(head)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded: they are pickled")
    text = words and dtype.kind == "U" and 0 < dtype.itemsize < 2**12
    if not text and (dtype.kind not in "bfiu" or dtype.itemsize > 8):
        raise InvalidInput("data", f"{name} of type {dtype}", "numbers of at most 64 bits")
    size = math.prod(shape) * dtype.itemsize
    if not shape or min(shape) < 0 or size != info.file_size - head.tell() or size > MOST_BYTES:
        raise ValueError(f"{name} of shape {list(shape)} in {info.file_size} bytes")
    taken = shape[0] if rows is None or fortran else min(rows, shape[0])
    wanted = size // max(shape[0], 1) * taken
    with archive.open(info) as member:
        member.read(head.tell())
        content = bytearray(member.read(wanted))
    flat = np.frombuffer(content, dtype)
    array = flat.reshape((taken, *shape[1:]), order="F" if fortran else "C")[:rows]
    if dtype.kind == "b" and (array.view(np.uint8) > 1).any():
        raise ValueError(f"{name} of truth values that are neither")
    if text:
        return np.array(array.tolist(), dtype=object)
    return np.ascontiguousarray(array, dtype=dtype.newbyteorder("="))


def _header(head: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, order and type from the start of an array file.

    Raises:
        ValueError: When it is of another version.
    """
    version = np.lib.format.read_magic(head)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(head)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(head)
    raise ValueError(f"an array file of version {version}")
