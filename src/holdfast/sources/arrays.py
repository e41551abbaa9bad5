"""Arrays from an `.npz` file: each is measured by its headers before it is unpacked."""

import io
import math
import zipfile
from pathlib import Path

import numpy as np

from holdfast.errors import InvalidInput
from holdfast.files import MOST_BYTES, open_file, reason
from holdfast.sources.zips import checked_members


def read_npz(
    path: Path, inputs: str | None, labels: str | None, rows: int | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Read inputs and labels from an `.npz` file.

    Args:
        path: The file.
        inputs: Name of the array of inputs; None for the usual names, test before training data.
        labels: Name of the array of labels.
        rows: How many of the first rows to read; None for all.

    Returns:
        Inputs [N, ...], labels [N], and no names of columns.

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
                names = _chosen(members, inputs, labels)
                found = [_read(archive, members[name], name, rows) for name in names]
        except (InvalidInput, MemoryError):
            raise
        except Exception as problem:  # a damaged file can break its reader anywhere
            raise InvalidInput("data", f"{str(path)!r} ({reason(problem)})", wanted) from problem
    return found[0], found[1], ()


def _chosen(
    members: dict[str, zipfile.ZipInfo], inputs: str | None, labels: str | None
) -> tuple[str, str]:
    """Return the names of the two arrays.

    Raises:
        InvalidInput: When there are none of the usual names, several, or none of those asked for.
    """
    pairs = (("inputs", "labels"), ("x", "y"), ("x_test", "y_test"))
    found = [pair for pair in pairs if {*pair} <= members.keys()]
    if len(found) > 1 and not (inputs and labels):
        got = (
            f"arrays {', '.join(' and '.join(pair) for pair in found)}, each of which may be meant"
        )
        wanted = " or ".join(f"?inputs={x}&labels={y}" for x, y in found)
        raise InvalidInput("data", got, wanted)
    usual = found[0] if found else ("", "")
    if labels and not inputs and not found:  # the usual name of inputs, beside another one
        usual = (next((x for x, _ in pairs if x in members), ""), labels)
    names = (inputs or usual[0], labels or usual[1])
    if not {*names} <= members.keys():
        known = ", ".join(" and ".join(pair) for pair in pairs)
        wanted = f"{known}, or ?inputs=NAME&labels=NAME"
        shown = [name[:40] for name in members][:12]
        raise InvalidInput("data", f"arrays {', '.join(shown)}", wanted)
    return names


def _read(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, rows: int | None
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
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
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
