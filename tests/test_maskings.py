"""The planted set: every masking is found, for the right reason, and broken.

On MNIST where real data are, else on digits.
"""

from dataclasses import replace

import pytest
import torch
from maskings import PLANTED, Bench, make_bench, subject_of

from benchmark.attacks.pgd import PGD
from benchmark.audit.stronger import Effort, strike
from benchmark.audit.subject import Curve
from benchmark.audit.transfer import Party, transfers
from benchmark.audit.verdict import judge
from benchmark.checks import examine
from benchmark.progress import Progress
from benchmark.spec import AttackSpec, ThreatModel, derive_seed
from benchmark.sweep import sweep

N = 20
THREAT = ThreatModel("linf", (0.1, 0.2))
EFFORT = Effort(steps=10, restarts=1, probes=6, eot=3, levels=2)
CLOSE = 0.1
"""So much more than of the bare model may stand of a masking under the stronger attack."""

HARMLESS = (
    "Clamped",  # PGD stays inside the box
    "Vanishing",  # and takes signs
    "Exploding",
    "WinnersTakeAll",
    "BatchStatistics",
    "Jitter",  # noise that small digits bear hides little from PGD without EOT
    "RandomShift",
)
"""What does not stop the harness's own PGD: found, and fairly attacked."""


@pytest.fixture(scope="session")
def bench(maybe_data_dir) -> Bench:
    return make_bench(N, maybe_data_dir)


def plain(defense, bench) -> list[Curve]:
    """A run's own sweep; none where it fails for want of a gradient."""
    spec = AttackSpec("pgd", THREAT, N)
    found = sweep(
        defense,
        PGD(steps=10),
        spec,
        bench.test,
        seed_at=lambda eps: derive_seed("plain", eps),
        progress=Progress(),
    )
    try:
        outcomes = list(found)
    except RuntimeError:
        return []
    success = torch.stack([outcome.success for outcome in outcomes])
    far = torch.stack([outcome.distance for outcome in outcomes])
    return [Curve("pgd", "inhouse", "linf", THREAT.eps, success, far)]


@pytest.fixture(scope="session")
def target(bench) -> list[float]:
    """What PGD leaves of the bare model."""
    return left_of(bench.bare, bench)


def left_of(defense, bench) -> list[float]:
    (curve,) = plain(defense, bench)
    return list(curve.robust_accuracy)


def never(verdict):
    return False


def at_once(verdict):
    return True


def audit(defense, bench, enough, queries=60):
    """Audit as a run does, until ``enough`` is found."""
    curves = plain(defense, bench)
    subject = subject_of(defense, bench, curves=curves)
    findings = list(examine(subject, "basic"))
    (transfer,) = transfers(
        [Party("other", bench.other)],
        [Party("masked", defense)],
        bench.test,
        THREAT,
        seed_at=lambda name, eps: derive_seed(name, eps),
        progress=Progress(),
        steps=10,
    )
    own, verdict = [], None
    effort = {"effort": replace(EFFORT, queries=queries), "progress": Progress()}
    for struck in strike(subject, bench.test, THREAT, findings, **effort):
        if struck.outcomes:
            own.append(struck.curve)
        verdict = judge(
            norm="linf",
            correct=subject.correct,
            stochastic=defense.stochastic,
            findings=findings,
            plain=curves,
            own=own,
            transferred=[transfer.curve],
        )
        if enough(verdict):
            break
    return findings, verdict


def test_the_bare_model_is_attacked_fairly(bench, target):
    findings, verdict = audit(bench.bare, bench, never)
    assert [finding for finding in findings if finding.answer == "alarm"] == []
    assert verdict.ruling == "attacked fairly"
    assert target[0] < 0.6
    assert target[1] < 0.1


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_a_masking_is_found_and_broken(planted, bench):
    defense = planted.build(bench)
    target = left_of(planted.oracle(bench), bench)

    def broken(verdict) -> bool:
        pairs = zip(verdict.rungs, target, strict=True)
        return all(r.headline <= bare + CLOSE for r, bare in pairs if r.eps >= planted.eps)

    enough = broken if planted.breakable else at_once
    findings, verdict = audit(defense, bench, enough, planted.queries)
    raised = {finding.check: finding for finding in findings if finding.answer in ("alarm", "note")}
    assert set(planted.reasons) & set(raised), sorted(raised)
    if planted.breakable:
        assert broken(verdict), ([rung.headline for rung in verdict.rungs], target)
    if planted.name in HARMLESS:
        assert verdict.ruling in ("attacked fairly", "masked")
    else:
        assert verdict.ruling == "masked", str(verdict)
