"""The conformance kit on everything that the package registers."""

import pytest
from example_defenses.momentum_fgsm import MomentumFGSM
from example_defenses.squeezed import Squeezed
from example_defenses.three_or_five import THREE_OR_FIVE
from example_defenses.trades import Trades

from benchmark.testing import COLOUR, GREY, check_attack, check_dataset, check_defense


@pytest.mark.parametrize("info", [GREY, COLOUR], ids=lambda info: info.name)
@pytest.mark.parametrize("cls", [Trades, Squeezed])
def test_defense(cls, info):
    assert check_defense(cls, info) == []


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attack(norm):
    assert check_attack(MomentumFGSM(norm=norm)) == []


def test_dataset():
    assert check_dataset(THREE_OR_FIVE) == []
