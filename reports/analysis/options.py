"""Options in words: ``key = value, outer.inner = value``."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def options(params: Any) -> str:
    """Return ``key = value, outer.inner = value`` in the keys' order, or ``defaults``."""
    return ", ".join(f"{key} = {word}" for key, word in assignments(params)) or "defaults"


def assignments(params: Any, within: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key, value in words), with ``outer.inner`` for what stands in a mapping."""
    for key, value in sorted(mapping(params).items()):
        name = f"{within}{key}"
        if isinstance(value, Mapping) and value:
            yield from assignments(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value)


def listed(values: Iterable[float]) -> str:
    """Return numbers as a list to read, floats with four digits."""
    return ", ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)


def mapping(value: Any) -> Mapping[str, Any]:
    """Return ``value`` if it is a mapping: damaged data costs its own line, not the report."""
    return value if isinstance(value, Mapping) else {}
