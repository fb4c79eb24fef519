"""The code that shapes a trained model: a plugin's own modules, and a short list of the harness's.

Followed are the modules of the class's own package and whatever else was not installed: a user's
``nets.py`` beside ``my_defense.py`` shapes the model as much. Of the harness only :data:`SHAPING`
counts: editing a message, a report or the results' schema retrains nothing. Other libraries' code
is taken to be as stable as their version.
"""

import ast
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import ModuleType
from weakref import WeakKeyDictionary

from benchmark.hashing import digest, digest_bytes

HARNESS = "benchmark"

SHAPING = frozenset(
    f"{HARNESS}.{name}"
    for name in (
        "attacks.ascent",
        "attacks.base",
        "attacks.losses",
        "attacks.norms",
        "attacks.pgd",
        "attacks.view",
        "datasets.augment",
        "datasets.dataset",
        "models.architectures",
        "models.defense",
        "seeding",
        "training.loop",
        "training.settings",
    )
)
"""The modules of the harness that shape weights: a defense's key holds those that it reaches.

Not on the list, though a training reaches them: what serves sweeps only (attacks.eps_descent,
attacks.precision), logs only (models.embedding_distance) or refuses only (config.eps, errors);
training.resume, which restores a state bit by bit; and hashing, whose seeds a key holds anyway.
"""

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
    harness = {name for name in found if _of_the_harness(name)}
    return (
        _together({name: value for name, value in found.items() if name not in harness}),
        _together({name: value for name, value in found.items() if name in harness}),
    )


def _together(found: dict[str, str]) -> str:
    return digest(*(f"{name} {found[name]}" for name in sorted(found)))


def sources(*modules: ModuleType) -> dict[str, str]:
    """Return the hashes of the files of ``modules`` and of the modules that they use, by name."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    for module in modules:
        own = module.__name__.partition(".")[0]
        waiting = [module.__name__]
        while waiting:
            name = waiting.pop()
            path = _path_of(name)
            if name in seen or path is None:
                continue
            seen.add(name)
            if _of_the_harness(name) and name not in SHAPING:
                if path.stem == "__init__":  # a package hands on what its modules define
                    waiting += _imported(_read_now(path), name)
                continue
            if name.partition(".")[0] not in (own, HARNESS) and is_installed(path):
                continue
            used = sys.modules.get(name)
            text = _read_now(path) if used is None else _source(used, path)
            found[name] = digest_bytes([text])
            waiting += _imported(text, _package(name, path))
            if used is not None and not _of_the_harness(name):
                waiting += _held(used, text)
    return found


def _of_the_harness(name: str) -> bool:
    return name.partition(".")[0] == HARNESS


def _package(name: str, path: Path) -> str:
    """Return the package that the relative imports of a module start from."""
    return name if path.stem == "__init__" else name.rpartition(".")[0]


def _path_of(name: str) -> Path | None:
    """Return a module's file, whether or not anybody has imported it yet; None if it has none.

    What is in a key must not depend on what else this process has imported.
    """
    module = sys.modules.get(name)
    if module is not None:
        path = getattr(module, "__file__", None)
        return Path(path) if isinstance(module, ModuleType) and path is not None else None
    try:
        top, *rest = name.split(".")
        found = find_spec(top)  # imports nothing: the name has no dot
        for depth in range(len(rest)):
            if found is None or found.submodule_search_locations is None:
                return None
            inner = ".".join([top, *rest[: depth + 1]])
            found = PathFinder.find_spec(inner, list(found.submodule_search_locations))
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(found.origin) if found is not None and found.has_location and found.origin else None


def _source(module: ModuleType, path: Path) -> bytes:
    if module not in _read:
        _read[module] = _read_now(path)
    return _read[module]


def _read_now(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # in a zip, or deleted since it was loaded
        return b""


def _held(module: ModuleType, text: bytes) -> Iterator[str]:
    """Yield the names of the modules that a loaded module holds, or holds something of."""
    named = _imported(text, module.__package__ or "")
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
