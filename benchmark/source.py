"""The code behind a class: which modules it uses, and what their files held when they were loaded.

Followed are the modules of the class's own package, the harness, and whatever else was not
installed: a user's ``nets.py`` beside ``my_defense.py`` shapes the model as much. Other libraries'
code is taken to be as stable as their version.
"""

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType
from weakref import WeakKeyDictionary

from benchmark.spec import digest

HARNESS = "benchmark"

_read: "WeakKeyDictionary[ModuleType, bytes]" = WeakKeyDictionary()
"""What each module's file held when it was first asked for. A run takes hours: who edits the file
meanwhile must not have the model of the old code kept under the new code's key."""


def remember(cls: type) -> None:
    """Read the source of a class that was loaded just now, before anybody edits it."""
    module = sys.modules.get(cls.__module__)
    if module is not None:
        sources(module)


def source_digest(*modules: ModuleType) -> str:
    """Hash the source of ``modules`` and of the modules that they use, recursively."""
    return _together(sources(*modules))


def own_and_harness(*modules: ModuleType) -> tuple[str, str]:
    """Return two such hashes: of what is the plugin's own, and of what is the harness's."""
    found = sources(*modules)
    harness = {name for name in found if name.partition(".")[0] == HARNESS}
    return (
        _together({name: value for name, value in found.items() if name not in harness}),
        _together({name: value for name, value in found.items() if name in harness}),
    )


def _together(found: dict[str, str]) -> str:
    return digest(*(f"{name} {found[name]}" for name in sorted(found)))


def sources(*modules: ModuleType) -> dict[str, str]:
    """Return the hashes of the files of ``modules`` and of the modules that they use, by name."""
    found: dict[str, str] = {}
    for module in modules:
        roots = {module.__name__.partition(".")[0], HARNESS}
        waiting = [module.__name__]
        while waiting:
            name = waiting.pop()
            used = sys.modules.get(name)
            path = getattr(used, "__file__", None)
            if name in found or path is None or not isinstance(used, ModuleType):
                continue
            if name.partition(".")[0] not in roots and is_installed(path):
                continue
            text = _source(used, Path(path))
            found[name] = hashlib.sha256(text).hexdigest()
            waiting += _uses(used, text)
    return found


def _source(module: ModuleType, path: Path) -> bytes:
    if module not in _read:
        try:
            _read[module] = path.read_bytes()
        except OSError:  # in a zip, or deleted since it was loaded
            _read[module] = b""
    return _read[module]


def _uses(module: ModuleType, text: bytes) -> Iterator[str]:
    """Yield the names of the modules that ``module`` holds, or holds something of."""
    named = _imported(text, module.__package__ or "")
    yield from named
    for key, value in list(vars(module).items()):
        if isinstance(value, ModuleType):
            # A package has every submodule that anybody imported: that is no use of its own.
            if value.__name__ != f"{module.__name__}.{key}" or value.__name__ in named:
                yield value.__name__
        elif isinstance(getattr(value, "__module__", None), str):
            yield value.__module__


@cache
def _imported(text: bytes, package: str) -> frozenset[str]:
    """Return the full names of what ``text``, a module of ``package``, imports."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # a compiled module
        return frozenset()
    names = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            try:
                base = resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:
                continue
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def is_installed(path: str | Path) -> bool:
    """Tell whether a file came with Python or with an installed package."""
    where = Path(path)
    if {"site-packages", "dist-packages"} & set(where.parts):
        return True
    return any(where.is_relative_to(root) for root in _library_roots())


@cache
def _library_roots() -> tuple[Path, ...]:
    return tuple({Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")})
