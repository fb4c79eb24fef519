"""What a source of models hands over."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from benchmark.errors import UsageError

Args = Mapping[str, Any]


@dataclass(frozen=True)
class LoadedModel:
    """A model, and what its library says of the images that it takes.

    ``mean`` and ``std`` are per channel, empty where the library does not tell; ``size`` is
    (height, width). ``notes`` are lines for the user.
    """

    model: Any
    name: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


def library(package: str, install: str = "") -> ModuleType:
    """Import a library that not everybody has; UsageError says how to install it."""
    if find_spec(package) is None:
        raise UsageError(f"{package} is not installed: pip install {install or package}")
    return import_module(package)
