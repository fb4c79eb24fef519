"""A page and the files beside it: written, and what an earlier report left there deleted.

Each report keeps the list of its files beside its page; nothing that is not on that list is ever
touched.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from benchmark.io.atomic import write_atomic
from benchmark.io.json_files import read_json, write_json
from benchmark.machine_errors import cannot_write


def write_files(page: Path, html: str, files: Mapping[str, bytes], *, clear: bool = False) -> Path:
    """Write ``files``, by name relative to the page's folder, and then the page; return its path.

    With ``clear`` an earlier report's other files are deleted. UsageError or MachineError if the
    folder takes no file.
    """
    try:
        for name, data in files.items():
            write_atomic(page.parent / name, data)
        write_atomic(page, html.encode())
        if clear:
            clear_away(page, files)
    except OSError as error:
        raise cannot_write(page.parent, error, "", what="report: ") from None
    return page


def clear_away(page: Path, written: Iterable[str]) -> None:
    """Delete the files of ``page``'s earlier report that are not ``written``; list the new ones.

    Names are relative to the page's folder. OSError if a file cannot be deleted.
    """
    names = sorted(written)
    listing = page.with_name(f"{page.stem}-files.json")
    for name in _listed(listing):
        if name not in (*names, page.name) and _within(page.parent, name):
            (page.parent / name).unlink(missing_ok=True)
    write_json(listing, {"files": names})


def _listed(listing: Path) -> list[str]:
    """Return the names on the list; none where it is absent or damaged."""
    try:
        found = read_json(listing)["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _within(folder: Path, name: str) -> bool:
    """Tell whether ``name`` is a file in ``folder`` that no ``..`` and no link leads out of."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        return False
    real = (folder / path).resolve()
    return real.is_file() and real == folder.resolve() / path
