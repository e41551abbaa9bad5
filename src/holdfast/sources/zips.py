"""Members of zip archives, measured by their headers before they are unpacked."""

import zipfile

from holdfast.errors import InvalidInput
from holdfast.sources.files import MOST_BYTES

_MOST_RATIO, _SMALL = 200, 2**24
_ENCRYPTED = 1


def check_member(info: zipfile.ZipInfo, argument: str) -> None:
    """Refuse a member that unpacks to far more than it is, or in a way that is not expected.

    Args:
        info: The member.
        argument: Name of the user's argument, for the message.

    Raises:
        InvalidInput: When its header says so.
    """
    if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
        raise InvalidInput(argument, f"{info.filename!r} packed in another way", "a plain archive")
    swollen = info.file_size > _SMALL and info.file_size > _MOST_RATIO * info.compress_size
    if swollen or info.file_size > MOST_BYTES:
        got = f"{info.filename!r}, which unpacks {info.compress_size} bytes to {info.file_size}"
        wanted = f"at most {_MOST_RATIO} times as many, and {MOST_BYTES}"
        raise InvalidInput(argument, got, wanted)


_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return the content of a checked member, of the length that its header says.

    Raises:
        ValueError: When there is less.
    """
    with archive.open(info) as member:
        content = member.read(info.file_size)
    if len(content) != info.file_size:
        raise ValueError(f"{info.filename!r} is shorter than it says")
    return content
