"""The verdict: may the run's accuracy of this defense be believed?

Three accuracies are compared over the same images: under all of the run's own attacks together
(plain), under all of the audit's stronger ones, transferred images included (stronger), and per
image under all of them (the headline, which is an upper bound: the robust accuracy is at most
that). Of several attacks an image falls if any turned it. Where the defense is stochastic the
lowest single attack counts in place of that: each attack's images are scored under one fresh draw,
and an image that falls in one of ten draws would fall to one of ten attacks, whatever they do.

What a check's alarm counts for is its role (:data:`benchmark.results.audit_words.Role`). The rule,
in this order:

1. ``invalid`` if an alarm says that the numbers mean nothing, whoever attacks: the data leak, or
   the defense breaks its interface.
2. ``gradient masking`` if an alarm names a cause (no gradient, a false one). Then the plain
   accuracy is no evidence, also where nothing stronger was found. One exception: where the stronger
   attack confirms the plain one at every eps, and that leaves at most :data:`DOWN` standing at its
   largest, the cause did not stop it.
3. ``attack too weak`` if at some eps the stronger attack leaves at least :data:`DROP` fewer
   standing than the plain one, and McNemar's test on the pairs, with Holm's correction over the
   eps, calls that more than chance at :data:`LEVEL`. Every stronger attack takes a few points more
   from an honest model: fewer than 10 from those that AutoAttack's authors confirmed, and more than
   10 from the 13 of 50 that they count as broken (Croce and Hein 2020,
   https://arxiv.org/abs/2003.01690).
4. ``undecided`` if something is missing: a stronger attack, a plain one, images enough to tell a
   drop from chance; or if an alarm tells of a symptom that no stronger attack explains.
5. ``attacked fairly`` otherwise.

Every verdict but a fair one says why, and one with such a drop names the attack that took most.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from benchmark.audit.case import Curve, Finding
from benchmark.config.threat import reach, same_eps
from benchmark.results.audit_words import Role, Ruling
from benchmark.stats import holm, mcnemar, wilson_interval

DROP = 0.10
"""Points of accuracy that a stronger attack must take beyond the plain one."""

LEVEL = 0.01
"""The level of the paired test."""

DOWN = 0.05
"""An attack that leaves no more standing has worked."""

ROLES: tuple[Role, ...] = ("invalid", "cause", "symptom")
"""In the order of the rule."""

RANDOM = "randomness"
"""The check whose alarm tells that a defense is stochastic and does not say so."""


@dataclass(frozen=True)
class Rung:
    """The accuracies at one ``eps``, all over the same ``n`` images; NaN where not measured.

    ``only_plain`` images stand under the plain attack alone, ``only_stronger`` under the stronger
    one alone. ``low`` and ``high`` are Wilson's 95 % interval of ``headline``. ``left`` maps each
    attack of the audit to the share of the images that stand but for what it turned itself.
    """

    eps: float
    n: int
    plain: float
    own: float
    transferred: float
    stronger: float
    headline: float
    low: float
    high: float
    only_plain: int
    only_stronger: int
    left: Mapping[str, float] = field(default_factory=dict)

    @property
    def best(self) -> str:
        """The single attack of the audit that leaves fewest standing; "" without one."""
        return min(self.left, key=lambda name: self.left[name], default="")

    @property
    def drop(self) -> float:
        """How much lower the accuracy is under the stronger attack; NaN where one is missing."""
        return self.plain - self.stronger


@dataclass(frozen=True)
class Verdict:
    """What is said of one defense in one norm: row of verdicts.parquet.

    ``rungs`` are the accuracies over the grid, ``at`` the one with the largest drop, one by the
    rule before others (without any, the one nearest to half of the clean accuracy); None where
    nothing was attacked. ``remarks`` are what a reader of a fair verdict should know as well.
    ``beaten_by`` is the audit's attack that took most at ``at``, where that is a drop by the rule.
    ``stochastic`` tells whether the defense was judged as one, which it may not call itself.
    """

    ruling: Ruling
    reasons: tuple[str, ...]
    norm: str
    clean: float
    rungs: tuple[Rung, ...]
    at: Rung | None
    p_value: float
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
    left out. ``missing`` says, in short phrases, what the
    audit could not do; ``settings`` says of the audit's attacks, by name, how they were set.
    """
    alarms = [finding for finding in findings if finding.answer == "alarm"]
    stochastic = stochastic or any(finding.check == RANDOM for finding in alarms)
    tables = [
        [_Fates(curve, stochastic) for curve in curves if curve.norm == norm]
        for curves in (plain, own, transferred)
    ]
    n = min(len(correct), *(max((t.n for t in some), default=len(correct)) for some in tables))
    if stochastic and tables[0]:  # one attack counts, and it may be any
        n = min(n, *(fates.n for fates in tables[0]))
    grid = _grid(tables)
    rungs = tuple(_rung(eps, n, correct[:n].cpu(), tables, stochastic) for eps in grid)
    p_value, broken = _broken(rungs)
    clean = float(correct[:n].double().mean()) if n else math.nan
    at = broken or _shown(rungs, clean)
    lacking = [*missing, *_lacking(tables, rungs, broken, stochastic)]
    own_alarms = [f for f in alarms if _about(f, plain, norm)]
    invalid, causes, symptoms = (_reasons(own_alarms, role) for role in ROLES)

    def verdict(ruling: Ruling, reasons: Sequence[str], remarks: Sequence[str] = ()) -> Verdict:
        told = tuple(reasons), norm, clean, rungs, at, p_value, tuple(remarks)
        return Verdict(ruling, *told, broken.best if broken else "", stochastic)

    def numbers() -> list[str]:
        if broken is not None:
            return [_gap(broken, stochastic), _named(broken, settings)]
        return _no_gap(at, stochastic)

    if invalid:
        return verdict("invalid", [*invalid, *causes, *numbers()])
    if causes:
        if broken is None and _confirmed(rungs) and not lacking:
            kept = [f"{reason}, which did not stop the attack" for reason in causes]
            return verdict("attacked fairly", (), kept)
        return verdict("gradient masking", [*causes, *numbers()])
    if broken is not None:
        return verdict("attack too weak", [*symptoms, *numbers()])
    lacking += [f"an explanation of: {reason}" for reason in symptoms]
    if lacking:
        return verdict("undecided", lacking)
    notes = [f for f in findings if f.answer == "note" and _about(f, plain, norm)]
    return verdict("attacked fairly", (), _reasons(notes))


# --- from curves to rungs ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Fates:
    """One attack's outcome per image, asked at any eps."""

    curve: Curve
    stochastic: bool

    @property
    def n(self) -> int:
        return self.curve.success.shape[1]

    def fell(self, eps: float, n: int) -> Tensor | None:
        """Return which of the first ``n`` images fell within ``eps``: bool (n,); those that the
        attack was not run on did not. None where it has nothing to say about this eps.

        An image that fools a deterministic defense does so at every eps that reaches it, whichever
        it was found at; of a stochastic one only the draws at this very eps count.
        """
        return self._within(self.curve.success, eps, n)

    def turned(self, eps: float, n: int) -> Tensor | None:
        """Return the same of what the attack turned itself, not others before it."""
        new = self.curve.new
        return self._within(self.curve.success if new is None else new, eps, n)

    def _within(self, success: Tensor, eps: float, n: int) -> Tensor | None:
        success = success[:, :n]
        if self.stochastic:
            at = [i for i, own in enumerate(self.curve.eps) if same_eps(own, eps)]
            if not at:
                return None
            fell = success[at[0]]
        else:
            if min(self.curve.eps) > reach(eps):
                return None
            near = self.curve.distance[:, :n] <= reach(eps)
            fell = (success & near).any(0)
        return torch.cat([fell, torch.zeros(n - len(fell), dtype=torch.bool)])


def _grid(tables: Sequence[Sequence[_Fates]]) -> list[float]:
    """The budgets at which the audit attacked, without it the run's own."""
    plain, own, transferred = (
        {eps for fates in some for eps in fates.curve.eps} for some in tables
    )
    return sorted((own or transferred or plain) - {0.0})


def _rung(
    eps: float,
    n: int,
    correct: Tensor,
    tables: Sequence[Sequence[_Fates]],
    stochastic: bool,
) -> Rung:
    plain, own, transferred = tables
    stands = [
        _standing(some, eps, n, correct, stochastic)
        for some in (plain, own, transferred, [*own, *transferred], [*plain, *own, *transferred])
    ]
    of_plain, of_own, of_transferred, of_stronger, of_all = stands
    low = high = math.nan
    if of_all is not None and n:
        low, high = wilson_interval(int(of_all.sum()), n)
    both = of_plain is not None and of_stronger is not None
    return Rung(
        eps=eps,
        n=n,
        plain=_share(of_plain),
        own=_share(of_own),
        transferred=_share(of_transferred),
        stronger=_share(of_stronger),
        headline=_share(of_all),
        low=low,
        high=high,
        only_plain=int((of_plain & ~of_stronger).sum()) if both else 0,  # type: ignore[operator]
        only_stronger=int((of_stronger & ~of_plain).sum()) if both else 0,  # type: ignore[operator]
        left=_left([*own, *transferred], eps, n, correct),
    )


def _standing(
    some: Sequence[_Fates], eps: float, n: int, correct: Tensor, stochastic: bool
) -> Tensor | None:
    """Return which images (n,) stand under these attacks; None where none was run at ``eps``."""
    answers = [fell for fates in some if (fell := fates.fell(eps, n)) is not None]
    if not answers:
        return None
    if stochastic:
        # An attack that saw a part of the images says nothing about the others.
        whole = [f for fates in some if fates.n >= n and (f := fates.fell(eps, n)) is not None]
        return ~max(whole or answers, key=lambda fell: int(fell.sum()))
    return correct & ~torch.stack(answers).any(0)


def _left(some: Sequence[_Fates], eps: float, n: int, correct: Tensor) -> dict[str, float]:
    """Return the share of ``n`` images that stand but for what each attack at ``eps`` turned."""
    return {
        fates.curve.attack: _share(correct & ~turned)
        for fates in some
        if (turned := fates.turned(eps, n)) is not None
    }


def _share(stands: Tensor | None) -> float:
    return float(stands.double().mean()) if stands is not None and len(stands) else math.nan


# --- the rule's parts --------------------------------------------------------------------------


def _broken(rungs: Sequence[Rung]) -> tuple[float, Rung | None]:
    """Return the smallest p-value and the rung of the largest drop that is more than chance."""
    both = [rung for rung in rungs if not math.isnan(rung.drop)]
    if not both:
        return math.nan, None
    p = holm(mcnemar([r.only_plain for r in both], [r.only_stronger for r in both]))
    found = [r for r, own in zip(both, p, strict=True) if r.drop >= DROP - 1e-9 and own < LEVEL]
    return float(p.min()), max(found, key=lambda r: r.drop, default=None)


def _lacking(
    tables: Sequence[Sequence[_Fates]],
    rungs: Sequence[Rung],
    broken: Rung | None,
    stochastic: bool,
) -> Iterator[str]:
    plain, own, transferred = tables
    if not plain:
        yield "an attack of the run in this norm"
    if not (own or transferred):
        yield "a stronger attack (run the full audit)"
    drops = [rung for rung in rungs if rung.drop >= DROP - 1e-9]
    if broken is None and drops:
        most = max(drops, key=lambda rung: rung.drop)
        yield f"more images: {_gap(most, stochastic)}, and of so few that may be chance"


def _confirmed(rungs: Sequence[Rung]) -> bool:
    """Whether the stronger attack agrees with the plain one at every eps, and that one worked."""
    both = [rung for rung in rungs if not math.isnan(rung.drop)]
    return bool(both) and max(r.drop for r in both) < DROP and both[-1].plain <= DOWN


def _shown(rungs: Sequence[Rung], clean: float) -> Rung | None:
    told = [rung for rung in rungs if not math.isnan(rung.headline)]
    if not told:
        return None
    most = max(told, key=lambda r: (0.0 if math.isnan(r.drop) else r.drop, -r.eps))
    if most.drop > 0:
        return most
    return min(told, key=lambda rung: abs(rung.headline - clean / 2))


def _about(finding: Finding, plain: Sequence[Curve], norm: str) -> bool:
    """Whether a finding about a sweep is about one in this norm; one of no known sweep is."""
    norms = {curve.norm for curve in plain if finding.is_about(curve)}
    return not norms or norm in norms


def _reasons(findings: Sequence[Finding], role: Role | None = None) -> list[str]:
    own = [finding for finding in findings if role in (None, finding.role)]
    return list(dict.fromkeys(finding.reason or finding.check for finding in own))


def _gap(rung: Rung, stochastic: bool) -> str:
    """Say what is compared, and what it bounds."""
    run = "all of the run's attacks together leave"
    if stochastic:
        run = "the best single attack of the run leaves"
    audit = "the audit's best" if stochastic else "the audit's"
    return (
        f"at eps {rung.eps:g} {run} {100 * rung.plain:.0f} % standing,"
        f" {audit} {100 * rung.stronger:.0f} %: robust accuracy is at most"
        f" {100 * rung.headline:.0f} % (n={rung.n})"
    )


def _named(rung: Rung, settings: Mapping[str, str]) -> str:
    """Name the attack that took most, with how it was set."""
    words = settings.get(rung.best, "")
    return f"beaten by {rung.best}" + (f": {words}" if words else "")


def _no_gap(at: Rung | None, stochastic: bool) -> list[str]:
    if at is None or math.isnan(at.drop):
        return []
    return [f"no attack found more ({_gap(at, stochastic)})"]
