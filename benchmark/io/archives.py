"""Archives, looked at before they are unpacked: nothing is written beside the folder named."""

import stat
from pathlib import Path, PurePosixPath
from zipfile import ZipFile, ZipInfo

from benchmark.errors import UsageError

MOST_MEMBERS = 500_000
MOST_BYTES = 2**32


def unpack_zip(archive: Path, folder: Path) -> None:
    """Unpack ``archive`` into ``folder``; UsageError, with nothing written, if it will not do.

    Refused are links, names that lead out of the folder, and more than the limits of this module.
    """
    with ZipFile(archive) as found:
        members = found.infolist()
        size = sum(member.file_size for member in members)
        if len(members) > MOST_MEMBERS or size > MOST_BYTES:
            raise UsageError(
                f"{archive}: {len(members):,} files of {size:,} bytes; {MOST_MEMBERS:,} files of"
                f" {MOST_BYTES:,} bytes are the most that is unpacked"
            )
        for member in members:
            if fault := _fault(member):
                raise UsageError(f"{archive}: not unpacked: {member.filename[:80]!r} {fault}")
        found.extractall(folder)


def _fault(member: ZipInfo) -> str:
    name = member.orig_filename
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link"
    if "\0" in name or "\\" in name or ":" in name:
        return "is not a name that every system takes"
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return "leads out of the folder"
    return ""
