"""defensebench: train a defense, attack it, and say how sure each number is.

The public API is imported lazily, so that ``import benchmark`` and the command line's help
stay fast: torch is loaded when the first name that needs it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.attack import BudgetAttack, MinimalAttack
    from benchmark.datasets import DatasetInfo, ImageDataset
    from benchmark.defense import Defense
    from benchmark.errors import UsageError
    from benchmark.spec import RunSpec
    from benchmark.training import TrainingLog
    from benchmark.view import AttackView, attack_view

__version__ = "0.1.0"

_HOME = {
    "AttackView": "benchmark.view",
    "BudgetAttack": "benchmark.attack",
    "DatasetInfo": "benchmark.datasets",
    "Defense": "benchmark.defense",
    "ImageDataset": "benchmark.datasets",
    "MinimalAttack": "benchmark.attack",
    "RunSpec": "benchmark.spec",
    "TrainingLog": "benchmark.training",
    "UsageError": "benchmark.errors",
    "attack_view": "benchmark.view",
}

__all__ = [
    "AttackView",
    "BudgetAttack",
    "DatasetInfo",
    "Defense",
    "ImageDataset",
    "MinimalAttack",
    "RunSpec",
    "TrainingLog",
    "UsageError",
    "__version__",
    "attack_view",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
