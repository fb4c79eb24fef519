"""Defenses by name: the class behind an entry point or a ``package.module:Class`` path."""

from benchmark.errors import UsageError
from benchmark.models.defense import Defense
from benchmark.plugins.containment import plugin_code
from benchmark.plugins.process_settings import contained
from benchmark.plugins.source_code import remember
from benchmark.registry import DEFENSES


def load_defense(name: str) -> type[Defense]:
    """Import the class of a registered defense; UsageError if there is none of that name."""
    with plugin_code(), contained():
        cls = DEFENSES.load(name)
    if not (isinstance(cls, type) and issubclass(cls, Defense)):
        raise UsageError(f"defense {name!r}: {cls!r} is not a subclass of benchmark.Defense")
    remember(cls)
    return cls
