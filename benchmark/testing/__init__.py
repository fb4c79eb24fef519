"""The conformance suite: what every defense and every attack must do, checked on tiny images.

A plugin runs it in its own tests::

    from benchmark.testing import check_defense
    from my_package.my_module import MyDefense

    def test_conforms():
        check_defense(MyDefense)

A broken rule raises an AssertionError that names it. What is allowed, but costs something or
misleads, is returned as a list of findings and raised as :class:`ConformanceWarning`, which pytest
shows in its summary. Everything runs on the CPU in a second or so.
"""

from benchmark.testing.attacks import check_attack
from benchmark.testing.common import COLOUR, GREY, ConformanceWarning, tiny_dataset
from benchmark.testing.defenses import check_defense

__all__ = ["COLOUR", "GREY", "ConformanceWarning", "check_attack", "check_defense", "tiny_dataset"]
