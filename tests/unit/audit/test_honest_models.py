"""Unusual models that hide nothing: no check raises an alarm, and no attack breaks the run's.

On MNIST where real data are, else on digits.
"""

import pytest
from bench_audit import THREAT, audit, plain
from honest_models import HONEST
from maskings import Bench, make_bench

N = 30


@pytest.fixture(scope="session")
def bench(maybe_data_dir) -> Bench:
    return make_bench(N, maybe_data_dir)


@pytest.mark.parametrize("name", HONEST)
def test_an_unusual_honest_model_is_not_accused(name, bench):
    defense = HONEST[name](bench)
    curves = plain(defense, bench, THREAT, steps=40)
    assert curves[0].robust_accuracy[0] < 0.9  # there is something to attack
    findings, verdict = audit(defense, bench, level="full", curves=curves)
    assert [finding for finding in findings if finding.answer == "alarm"] == []
    # The fairest attack takes a little more; of so few images that may be too few to tell.
    few = [reason.startswith("more images") for reason in verdict.reasons]
    assert verdict.ruling == "attacked fairly" or all(few), str(verdict)
