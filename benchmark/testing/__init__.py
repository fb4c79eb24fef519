"""The conformance kit: what every defense, attack and dataset must do, on tiny images.

From the shell, without a test file, a test for each check (:mod:`benchmark.testing.items`)::

    pytest --defense my_package.my_module:MyDefense --attack my_package.my_module:MyAttack

or in a plugin's own tests::

    from benchmark.testing import check_defense
    from my_package.my_module import MyDefense

    def test_conforms():
        check_defense(MyDefense)

A broken rule raises an AssertionError that names it. What is allowed, but costs something or
misleads, is returned as a list of findings and raised as :class:`ConformanceWarning`, which pytest
shows in its summary. Everything runs on the CPU in a second or so.

The names are imported lazily: importing this package loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.testing.attacks import check_attack
    from benchmark.testing.common import COLOUR, GREY, ConformanceWarning, tiny_dataset
    from benchmark.testing.datasets import check_dataset
    from benchmark.testing.defenses import check_defense

__all__ = [
    "COLOUR",
    "GREY",
    "ConformanceWarning",
    "check_attack",
    "check_dataset",
    "check_defense",
    "tiny_dataset",
]

_HOME = {"check_attack": "attacks", "check_dataset": "datasets", "check_defense": "defenses"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'common')}"), name)
