"""The files that a plugin reads while it builds and trains a model, found without its help.

A model depends on them as on its code. Python's audit hook reports every file that its own ``open``
reads (https://peps.python.org/pep-0578): NumPy, pickle, JSON and ``torch.load`` go through it.
Readers in compiled code (safetensors, HDF5, Arrow) do not, so weight files also count if their path
is an attribute of the defense, an option or a name in its module. Any other file a defense names in
``depends_on``.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from benchmark.errors import PluginError
from benchmark.hashing import digest_file
from benchmark.models.defense import Defense
from benchmark.plugins.source_code import is_installed

MOST_FILES = 1000
MOST_BYTES = 2**33
"""Files that are hashed, at most, and their size; of a larger one only the size is compared."""

COMPILED = (".safetensors", ".bin", ".pt", ".pth", ".onnx", ".h5", ".hdf5", ".npz", ".npy")
"""Kinds of weight files that code outside Python may read."""

CODE = (".py", ".pyc", ".pyi", ".so", ".pyd")
SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr/lib", "/usr/share", "/usr/local/share")

METADATA = (".egg-info", ".dist-info")
"""Folders in which an installation describes itself: listing the plugins reads them."""

_WRITE = os.O_WRONLY | os.O_RDWR


@dataclass
class Watch:
    """Which files were opened while it was on: for reading alone, and for writing."""

    read: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)

    def files(
        self, also: Iterable[Path] = (), but: Iterable[Path] = (), own: Iterable[str] = ()
    ) -> dict[str, str]:
        """Return the hashes, by path, of the data files that were read, and of those ``also``.

        Left out are files that were written as well (a log, a best epoch), those in the folders
        ``but``, and those of Python, the system or a package, unless its folder is in ``own``.
        """
        written = {os.path.realpath(path) for path in self.written}
        others = [os.path.realpath(str(path)) for path in (*but, *SYSTEM)]
        found: dict[str, str] = {}
        for path in sorted({os.path.realpath(str(path)) for path in (*self.read, *also)} - written):
            if path.endswith(CODE) or PurePath(path).parent.suffix in METADATA:
                continue
            if is_installed(path) and not any(PurePath(path).is_relative_to(o) for o in own):
                continue
            if any(PurePath(path).is_relative_to(folder) for folder in others):
                continue
            value = file_hash(path)
            if value and len(found) < MOST_FILES:
                found[path] = value
        return found


_watches: list[Watch] = []
_hooked: list[bool] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    # It is called on everything that the process does: it must be quick and never raise.
    if not _watches or event != "open" or not isinstance(args[0], str):
        return
    writes = isinstance(args[2], int) and args[2] & _WRITE
    path = os.path.abspath(args[0])  # noqa: PTH100 (a plugin may change the working directory)
    for watch in _watches:
        (watch.written if writes else watch.read).add(path)


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch which files the block opens."""
    if not _hooked:  # an audit hook cannot be taken back, so there is one for all
        sys.addaudithook(_hook)
        _hooked.append(True)
    watch = Watch()
    _watches.append(watch)
    try:
        yield watch
    finally:
        _watches.remove(watch)


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of a plain file; "" for anything else and what cannot be read."""
    try:
        if not os.path.isfile(path):  # noqa: PTH113 (a pipe or a device would never end)
            return ""
        size = os.stat(path).st_size  # noqa: PTH116
        if size > MOST_BYTES:
            return f"{size} bytes"
        return digest_file(Path(path))
    except (OSError, ValueError):
        return ""


def changed_file(before: Mapping[str, Any]) -> str:
    """Return the first path whose hash is not that of ``before``; "" if none is.

    A file that is gone does not count: it may have been a temporary one.
    """
    for path, value in before.items():
        now = file_hash(path)
        if now and now != value:
            return path
    return ""


def mentioned(defense: Defense, params: Mapping[str, Any]) -> list[Path]:
    """Return the weight files whose paths are in a defense, its class, its module or options."""
    cls = type(defense)
    module = sys.modules.get(cls.__module__)
    tables = [vars(defense), params, vars(module) if module else {}]
    tables += [vars(base) for base in cls.__mro__ if issubclass(base, Defense)]
    found = []
    for value in (value for table in tables for value in list(table.values())):
        text = str(value) if isinstance(value, str | PurePath) else ""
        if text.lower().endswith(COMPILED) and os.path.isfile(text):  # noqa: PTH113
            found.append(Path(text))
    return found


def own_folders(defense: Defense) -> list[str]:
    """Return the folders of the package that a defense's class comes from; none for a module."""
    package = sys.modules.get(type(defense).__module__.partition(".")[0])
    return [os.path.realpath(folder) for folder in getattr(package, "__path__", ())]


def declared(defense: Defense) -> list[Path]:
    """Return the files that a defense names in ``depends_on``, those of a folder one by one.

    PluginError if one does not exist.
    """
    named: Any = defense.depends_on
    if callable(named):
        named = named()
    if isinstance(named, str | PurePath):
        named = [named]
    found: list[Path] = []
    for name in named:
        path = Path(name)
        if path.is_dir():
            found += sorted(inner for inner in path.rglob("*") if inner.is_file())
        elif path.is_file():
            found.append(path)
        else:
            raise PluginError(
                f"depends_on names {path}, which is not there (a relative path is looked up in the"
                " working directory)"
            )
    return found
