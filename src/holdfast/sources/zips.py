"""Members of zip archives, measured by their headers before they are unpacked."""

import zipfile

from holdfast.errors import InvalidInput
from holdfast.files import check_once
from holdfast.sources.files import check_count, check_unpacked


def checked_members(archive: zipfile.ZipFile, argument: str) -> dict[str, zipfile.ZipInfo]:
    """Return the members by name, once none of them unpacks to far more than it is.

    Args:
        archive: The archive.
        argument: Name of the user's argument, for the message.

    Raises:
        InvalidInput: When a header says that one, or all together, are too large or packed in a way
            that is not expected.
        ValueError: When there are too many, or a name comes twice.
    """
    infos = archive.infolist()
    check_count("members", len(infos))
    check_once("member", [info.filename for info in infos])
    for info in infos:
        encrypted = info.flag_bits & 1
        if encrypted or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            got = f"{info.filename!r} packed in another way"
            raise InvalidInput(argument, got, "a plain archive")
        check_unpacked(f"{info.filename!r}", info.compress_size, info.file_size, argument)
    # Members may share their bytes, so what all of them unpack to is held against the file itself.
    end = archive.start_dir
    check_unpacked("an archive", end, sum(info.file_size for info in infos), argument)
    return {info.filename: info for info in infos}


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
