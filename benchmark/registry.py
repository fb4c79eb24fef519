"""Plugins by entry point: defenses, attacks and datasets under their names.

A package adds a defense with one line in its metadata::

    [options.entry_points]
    defensebench.defenses =
        my-defense = my_package.my_module:MyDefense

Our own register through the same groups. Listing the names imports none of them; a plugin is
imported when it is first used.
"""

import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

from benchmark.errors import UsageError, unknown_name
from benchmark.own_packages import hint


@dataclass(frozen=True)
class Registry:
    """The plugins of one kind, from the entry points of ``group``."""

    kind: str
    group: str

    def entries(self) -> dict[str, EntryPoint]:
        """Return the installed entry points by name, sorted; UsageError if two share a name."""
        found: dict[str, EntryPoint] = {}
        for point in _installed(self.group, tuple(sys.path)):
            other = found.setdefault(point.name, point)
            if other.value != point.value:
                raise UsageError(
                    f"two installed packages provide the {self.kind} {point.name!r}"
                    f" ({other.value} and {point.value}); uninstall one"
                )
        if not found:
            raise UsageError(
                f"no {self.kind} is installed; install the package first: pip install -e ."
            )
        return dict(sorted(found.items()))

    def names(self) -> list[str]:
        """Return the registered names, sorted, without importing any plugin."""
        return list(self.entries())

    def check(self, name: str) -> None:
        """Raise a UsageError with the nearest name unless ``name`` is registered or a path."""
        if name not in self.entries() and not is_path(name):
            raise unknown_name(self.kind, name, self.entries())

    def load(self, name: str) -> Any:
        """Import and return the plugin ``name`` (or ``package.module:Object``).

        Raises UsageError for an unknown name; whatever the plugin's import raises passes through.
        """
        self.check(name)
        entries = self.entries()
        if name in entries:
            return entries[name].load()
        module_name, _, attribute = name.partition(":")
        try:
            module = import_module(module_name)
        except ModuleNotFoundError as error:
            raise UsageError(f"{self.kind} {name!r}: {error}{hint(module_name)}") from None
        try:
            return getattr(module, attribute)
        except AttributeError:
            raise UsageError(
                f"{self.kind} {name!r}: {module_name} has no {attribute!r}{hint(module_name)}"
            ) from None


@cache
def _installed(group: str, path: tuple[str, ...]) -> EntryPoints:
    """Look once for what is installed on ``path``: that reads every package's metadata."""
    return entry_points(group=group)


def is_path(name: str) -> bool:
    """Tell whether ``name`` has the form ``package.module:Object``."""
    module, colon, attribute = name.partition(":")
    return bool(
        colon and attribute.isidentifier() and all(p.isidentifier() for p in module.split("."))
    )


DEFENSES = Registry("defense", "defensebench.defenses")
ATTACKS = Registry("attack", "defensebench.attacks")
LIBRARIES = Registry("attack library", "defensebench.attack_libraries")
DATASETS = Registry("dataset", "defensebench.datasets")
