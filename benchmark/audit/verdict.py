"""The verdict: may the run's accuracy of this defense be believed?

Three accuracies are compared over the same images: under all of the run's own attacks together
(plain), under all of the audit's stronger ones, transferred images included (stronger), and per
image under all of them (the headline, which is an upper bound: the robust accuracy is at most
that). Of several attacks an image counts as adversarial if any fooled the defense. Where the
defense is stochastic the lowest single attack counts in place of that: each attack's images are
scored under one fresh draw, and an image that fools one of ten draws would fool one of ten attacks,
whatever they do.

What a check's alarm counts for is its role (:data:`benchmark.results.audit_words.Role`). The rule,
in this order:

1. ``invalid`` if an alarm says that the numbers mean nothing, whoever attacks: the data leak, or
   the defense breaks its interface.
2. ``gradient masking`` if an alarm names a cause (no gradient, a false one). Then the plain
   accuracy is no evidence, also where nothing stronger was found. One exception: where the stronger
   attack confirms the plain one at every eps, and that leaves at most :data:`DOWN` at its largest,
   the cause did not stop it.
3. ``attack too weak`` if at some eps the accuracy under the stronger attack is at least
   :data:`DROP` lower than under the plain one, and McNemar's test on the pairs, with Holm's
   correction over the eps, calls that more than chance at :data:`LEVEL`.
4. ``undecided`` if something is missing: a stronger attack, a plain one, images enough to tell a
   drop from chance; or if an alarm tells of a symptom that no stronger attack explains.
5. ``attacked fairly`` otherwise.

Every verdict but a fair one says why, and one with such a drop names the attack that took most.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from benchmark.audit.case import Curve, Finding
from benchmark.audit.checks import remedies_for
from benchmark.audit.comparison import Attacks, Comparison
from benchmark.results.audit_words import Role, Ruling
from benchmark.stats import holm, mcnemar

DROP = 0.10
"""Accuracy that a stronger attack must take beyond the plain one; docs/constants.md."""

LEVEL = 0.01
"""The level of the paired test."""

DOWN = 0.05
"""An attack that leaves no higher accuracy has worked."""

ROLES: tuple[Role, ...] = ("invalid", "cause", "symptom")
"""In the order of the rule."""


@dataclass(frozen=True)
class Verdict:
    """What is said of one defense in one norm: row of verdicts.parquet.

    ``comparisons`` are the accuracies over the grid, ``at`` the one with the largest drop, one by
    the rule before others (without any, the one nearest to half of the clean accuracy); None where
    nothing was attacked. ``remarks`` are what a reader of a fair verdict should know as well.
    ``beaten_by`` is the audit's attack that took most at ``at``, where that is a drop by the rule.
    ``stochastic`` tells whether the defense was judged as one, which it may not call itself.
    """

    ruling: Ruling
    reasons: tuple[str, ...]
    norm: str
    clean: float = math.nan
    comparisons: tuple[Comparison, ...] = ()
    at: Comparison | None = None
    p_value: float = math.nan
    remarks: tuple[str, ...] = ()
    beaten_by: str = ""
    stochastic: bool = False

    def __str__(self) -> str:
        if not self.reasons:
            return self.ruling
        return f"{self.ruling}: {'; '.join(self.reasons)}"


def judge(
    *,
    norm: str,
    correct: Tensor,
    stochastic: bool,
    findings: Sequence[Finding],
    plain: Sequence[Curve],
    own: Sequence[Curve] = (),
    transferred: Sequence[Curve] = (),
    missing: Sequence[str] = (),
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Verdict:
    """Return the verdict on a defense in ``norm``, by the rule above.

    ``correct`` (n,) bool tells which of the audit's images the defense gets right, ``stochastic``
    whether it says that it is; what the checks found counts, too. A stochastic one is judged on the
    images that every attack of the run saw. ``plain`` are the run's sweeps, of the first images
    each, ``own`` and ``transferred`` the audit's, over all n or fewer; those in other norms are
    left out. ``missing`` says, in short phrases, what the audit could not do; ``settings`` says of
    the audit's attacks, by name, how they were set.
    """
    alarms = [finding for finding in findings if finding.answer == "alarm"]
    stochastic = stochastic or "fresh draws" in remedies_for(alarms, "alarm")
    sides = [[curve for curve in side if curve.norm == norm] for side in (plain, own, transferred)]
    attacks = Attacks(sides[0], sides[1], sides[2], stochastic)
    correct = correct[: attacks.comparable(len(correct))]
    compared = attacks.compare(correct)
    p_value, broken = _broken(compared)
    clean = float(correct.double().mean()) if len(correct) else math.nan
    at = broken or _shown(compared, clean)
    lacking = [*missing, *_lacking(attacks, compared, broken)]
    invalid, causes, symptoms = (
        _reasons([f for f in alarms if f.role == role and _about(f, plain, norm)]) for role in ROLES
    )
    numbers = _no_gap(at, stochastic)
    if broken is not None:
        words = settings.get(broken.best, "")
        named = f"beaten by {broken.best}" + (f": {words}" if words else "")
        numbers = [_gap(broken, stochastic), named]
    ruling: Ruling = "attacked fairly"
    reasons: Sequence[str] = ()
    remarks: Sequence[str] = ()
    if invalid:
        ruling, reasons = "invalid", [*invalid, *causes, *numbers]
    elif causes and broken is None and _confirmed(compared) and not lacking:
        remarks = [f"{reason}, which did not stop the attack" for reason in causes]
    elif causes:
        ruling, reasons = "gradient masking", [*causes, *numbers]
    elif broken is not None:
        ruling, reasons = "attack too weak", [*symptoms, *numbers]
    elif lacking or symptoms:
        explained = [f"an explanation of: {reason}" for reason in symptoms]
        ruling, reasons = "undecided", [*lacking, *explained]
    else:
        remarks = _reasons([f for f in findings if f.answer == "note" and _about(f, plain, norm)])
    return Verdict(
        ruling,
        tuple(reasons),
        norm,
        clean,
        compared,
        at,
        p_value,
        tuple(remarks),
        broken.best if broken else "",
        stochastic,
    )


def _told(compared: Sequence[Comparison]) -> list[Comparison]:
    """Return those with both accuracies."""
    return [one for one in compared if not math.isnan(one.drop)]


def _broken(compared: Sequence[Comparison]) -> tuple[float, Comparison | None]:
    """Return the smallest p-value and the comparison of the largest drop beyond chance."""
    both = _told(compared)
    if not both:
        return math.nan, None
    p = holm(mcnemar([one.only_plain for one in both], [one.only_stronger for one in both]))
    found = [
        one for one, own in zip(both, p, strict=True) if one.drop >= DROP - 1e-9 and own < LEVEL
    ]
    return float(p.min()), max(found, key=lambda one: one.drop, default=None)


def _lacking(
    attacks: Attacks, compared: Sequence[Comparison], broken: Comparison | None
) -> Iterator[str]:
    if not attacks.plain:
        yield "an attack of the run in this norm"
    if not attacks.stronger:
        yield "a stronger attack (run the full audit)"
    drops = [one for one in compared if one.drop >= DROP - 1e-9]
    if broken is None and drops:
        most = _gap(max(drops, key=lambda one: one.drop), attacks.stochastic)
        yield f"more images: {most}, and of so few that may be chance"


def _confirmed(compared: Sequence[Comparison]) -> bool:
    """Whether the stronger attack agrees with the plain one at every eps, and that one worked."""
    both = _told(compared)
    return bool(both) and max(one.drop for one in both) < DROP and both[-1].plain <= DOWN


def _shown(compared: Sequence[Comparison], clean: float) -> Comparison | None:
    told = [one for one in compared if not math.isnan(one.headline)]
    if not told:
        return None
    most = max(told, key=lambda one: (0.0 if math.isnan(one.drop) else one.drop, -one.eps))
    if most.drop > 0:
        return most
    return min(told, key=lambda one: abs(one.headline - clean / 2))


def _about(finding: Finding, plain: Sequence[Curve], norm: str) -> bool:
    """Whether a finding about a sweep is about one in this norm; one of no known sweep is."""
    norms = {curve.norm for curve in plain if finding.is_about(curve)}
    return not norms or norm in norms


def _reasons(findings: Sequence[Finding]) -> list[str]:
    return list(dict.fromkeys(finding.reason or finding.check for finding in findings))


def _gap(at: Comparison, stochastic: bool) -> str:
    """Say what is compared, and what it bounds."""
    run = "all of the run's attacks together leave"
    if stochastic:
        run = "the best single attack of the run leaves"
    audit = "the audit's best" if stochastic else "the audit's"
    return (
        f"at eps {at.eps:g} {run} {100 * at.plain:.0f} %, {audit} {100 * at.stronger:.0f} %: robust"
        f" accuracy is at most {100 * at.headline:.0f} % (n={at.n})"
    )


def _no_gap(at: Comparison | None, stochastic: bool) -> list[str]:
    if at is None or math.isnan(at.drop):
        return []
    return [f"no attack found more ({_gap(at, stochastic)})"]
