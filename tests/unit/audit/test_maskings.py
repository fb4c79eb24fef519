"""The planted set: every masking is found, for the right reason, and broken.

On MNIST where real data are, else on digits.
"""

import pytest
from bench_audit import THREAT, audit, left_of
from maskings import PLANTED, Bench, Exploding, make_bench

N = 20
CLOSE = 0.1
"""So much more than of the oracle may stand of a masking under the stronger attack."""

HARMLESS = (
    "Clamped",  # PGD stays inside the box
    "Vanishing",  # and takes signs
    "Exploding",
    "WinnersTakeAll",
    "BatchStatistics",
    "Jitter",  # noise that small digits bear hides little from PGD without EOT
    "RandomShift",
    "SeededNoise",  # every step is a draw, and one that fools does so again
    "Denoised",  # the search comes from the image, where nothing is purified yet
)
"""What does not stop the harness's own PGD: found, and fairly attacked."""


@pytest.fixture(scope="session")
def bench(maybe_data_dir) -> Bench:
    return make_bench(N, maybe_data_dir)


def at_once(verdict):
    return True


def test_the_bare_model_is_attacked_fairly(bench):
    target = left_of(bench.bare, bench)
    findings, verdict = audit(bench.bare, bench)
    assert [finding for finding in findings if finding.answer == "alarm"] == []
    assert verdict.ruling == "attacked fairly"
    assert target[0] < 0.6
    assert target[1] < 0.1


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_a_masking_is_found_and_broken(planted, bench):
    defense = planted.build(bench)
    target = left_of(planted.oracle(bench), bench)

    def broken(verdict) -> bool:
        left = {one.eps: one.headline for one in verdict.comparisons}
        pairs = zip(THREAT.eps, target, strict=True)
        return all(left.get(eps, 1) <= bare + CLOSE for eps, bare in pairs if eps >= planted.eps)

    enough = broken if planted.breakable else at_once
    findings, verdict = audit(defense, bench, enough, queries=planted.queries)
    raised = {finding.check: finding for finding in findings if finding.answer in ("alarm", "note")}
    assert not planted.reasons or set(planted.reasons) & set(raised), sorted(raised)
    if planted.breakable:
        assert broken(verdict), ([one.headline for one in verdict.comparisons], target)
    broken_rules = [f for f in raised.values() if (f.answer, f.role) == ("alarm", "invalid")]
    if broken_rules:
        assert verdict.ruling == "invalid", str(verdict)
    elif planted.name in HARMLESS:
        assert verdict.ruling in ("attacked fairly", "gradient masking")
    else:
        assert verdict.ruling == "gradient masking", str(verdict)


def test_a_gradient_beyond_float32_still_leads_the_runs_attack(bench):
    """An infinity keeps its sign: what is left is what PGD leaves of the bare model."""
    assert left_of(Exploding(bench.bare), bench) == pytest.approx(
        left_of(bench.bare, bench), abs=0.04
    )
