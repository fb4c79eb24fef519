"""The conformance kit on everything that the package registers."""

import pytest
from example_defenses.momentum_fgsm import MomentumFGSM
from example_defenses.squeezed import Squeezed
from example_defenses.three_or_five import THREE_OR_FIVE
from example_defenses.trades import Trades

from benchmark.testing import COLOUR, GREY, check_attack, check_dataset, check_defense


def test_trades():
    assert check_defense(Trades) == []


@pytest.mark.parametrize("info", [GREY, COLOUR], ids=lambda info: info.name)
def test_squeezed(info):
    assert check_defense(Squeezed, info) == []


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attack(norm):
    assert check_attack(MomentumFGSM(norm=norm)) == []


def test_dataset():
    assert check_dataset(THREE_OR_FIVE) == []
