"""What an earlier report left beside the page: deleted where the new one does not write it.

Each report keeps the list of its files beside its page; nothing that is not on that list is ever
touched.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from benchmark.io.json_files import read_json, write_json


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
