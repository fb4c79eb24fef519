"""One name for one plugin, however it was asked for, and the name that its seeds come from.

``baselines.madry:Madry`` is the registered ``madry``; ``package:Class`` is the
``package.module:Class`` that it is imported from. So one class has one row of results, one model in
the cache and one set of numbers.
"""

import sys
from typing import Any

from benchmark.own_packages import OWN
from benchmark.plugins.containment import plugin_code
from benchmark.plugins.process_settings import contained
from benchmark.registry import Registry, is_path


def canonical(registry: Registry, word: str) -> str:
    """Return the registered name of what ``word`` names, else the path of its class.

    ``word`` itself where it is registered, names nothing, or cannot be imported: its user
    meets the same fault and says so.
    """
    if word in registry.entries() or not is_path(word):
        return word
    try:
        with plugin_code(), contained():
            found = registry.load(word)
            return _registered(registry, word, found) or class_path(found) or word
    except Exception:
        return word


def class_path(found: Any) -> str:
    """Return ``module:Class`` of a class that lies there; empty for anything else."""
    if not isinstance(found, type):
        return ""
    path = f"{found.__module__}:{found.__qualname__}"
    there = getattr(sys.modules.get(found.__module__), found.__qualname__, None)
    return path if is_path(path) and there is found else ""


def seed_name(found: Any, name: str, type_: str) -> str:
    """Return the name that the seeds of ``found`` come from; empty if it is ``name``.

    ``name`` is the one in the results, ``type_`` the one under which ``found`` was asked for. Our
    own keep their registered names. Anybody else's class has its path, so that its numbers are the
    same before and after it is registered, under whatever name.
    """
    path = class_path(found)
    if not path or _package(path) in OWN or not name.startswith(type_):
        return ""
    own = path + name.removeprefix(type_)
    return "" if own == name else own


def _registered(registry: Registry, word: str, found: Any) -> str:
    """Return the name of the entry point that gives ``found`` itself; empty if none does.

    Only packages that are imported already are asked: those of the word and of the class.
    """
    packages = {_package(word), _package(getattr(found, "__module__", ""))}
    for name, point in registry.entries().items():
        try:
            if _package(point.value) in packages and point.load() is found:
                return name
        except Exception:  # another plugin of that package, which is broken
            continue
    return ""


def _package(path: str) -> str:
    return str(path).partition(":")[0].partition(".")[0]
