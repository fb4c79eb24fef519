"""defensebench: train a defense, attack it, and say how sure each number is.

The public API is imported lazily, so that ``import benchmark`` and the command line's help
stay fast: torch is loaded when the first name that needs it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.attacks.base import BudgetAttack, MinimalAttack
    from benchmark.attacks.view import AttackView, attack_view
    from benchmark.config.spec import RunSpec
    from benchmark.datasets.dataset import ImageDataset
    from benchmark.datasets.info import DatasetInfo
    from benchmark.errors import UsageError
    from benchmark.given.evaluate import evaluate
    from benchmark.given.evaluation import Evaluation
    from benchmark.models.defense import Defense, TrainingLog

__version__ = "0.1.0"

_HOME = {
    "AttackView": "benchmark.attacks.view",
    "BudgetAttack": "benchmark.attacks.base",
    "DatasetInfo": "benchmark.datasets.info",
    "Defense": "benchmark.models.defense",
    "Evaluation": "benchmark.given.evaluation",
    "ImageDataset": "benchmark.datasets.dataset",
    "MinimalAttack": "benchmark.attacks.base",
    "RunSpec": "benchmark.config.spec",
    "TrainingLog": "benchmark.models.defense",
    "UsageError": "benchmark.errors",
    "attack_view": "benchmark.attacks.view",
    "evaluate": "benchmark.given.evaluate",
}

__all__ = [
    "AttackView",
    "BudgetAttack",
    "DatasetInfo",
    "Defense",
    "Evaluation",
    "ImageDataset",
    "MinimalAttack",
    "RunSpec",
    "TrainingLog",
    "UsageError",
    "__version__",
    "attack_view",
    "evaluate",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
