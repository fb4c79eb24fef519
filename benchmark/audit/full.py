"""The full audit of a run: every check, stronger attacks, transfer between its defenses, verdicts.

It needs all trained models of a seed at once, and leaves the run's own tables as they are: what its
attacks found is in audit_samples.parquet. A defense is judged as soon as it is attacked, and what
is judged in full is not judged again.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import pandas as pd

from benchmark.audit.attack_harder import StrongerResult, attack_harder
from benchmark.audit.basic import ask, audit_failed, case_of, out_of_reach, verdict_row
from benchmark.audit.budgets import shared, telling
from benchmark.audit.case import Case, Curve, Finding
from benchmark.audit.rerun import command_for, words_of
from benchmark.audit.run_results import (
    Target,
    correct_of,
    norms_of,
    passes_of,
    seen_through,
)
from benchmark.audit.sample_rows import (
    no_samples,
    stronger_samples,
    transfer_rows,
    transfer_samples,
)
from benchmark.audit.stronger_attacks import Effort
from benchmark.audit.transfer import (
    AttackedModel,
    Transfer,
    from_others,
    substitute_for,
    transfers,
    undefended_first,
)
from benchmark.audit.verdict import DROP, Verdict, judge
from benchmark.config.spec import DefenseSpec
from benchmark.config.threat import ThreatModel
from benchmark.datasets.dataset import ImageDataset
from benchmark.evaluation.scoring import CleanPredictions
from benchmark.hashing import derive_seed
from benchmark.models.defense import Defense
from benchmark.models.model_copy import Kept
from benchmark.plugins.containment import plugin_code
from benchmark.progress import Progress
from benchmark.results.audit_tables import (
    TRANSFER,
    VERDICTS,
    put_samples,
    put_transfer,
    put_verdicts,
    read_verdicts,
)
from benchmark.results.model_records import ModelRecord
from benchmark.results.run_folder import RunFolder
from benchmark.results.tables import make_table
from benchmark.training.supply import Sets, Supply

IMAGES = 200
"""Images that are attacked harder, at most: a drop of 10 points is then far from chance."""

LEVELS = 3
"""A norm's budgets at which images are transferred, at most."""

FACTOR = 4
"""The passes of the stronger attacks, in times those that the run's own spent on the image that
cost them most; at most those of a whole :class:`~benchmark.audit.stronger_attacks.Effort`."""


@dataclass(frozen=True)
class FullAudit:
    """A run to be audited in full: its folder, what it trained, and its images."""

    folder: RunFolder
    supply: Supply
    records: Mapping[tuple[str, int], ModelRecord]
    sets: Sets
    progress: Progress

    def run(self) -> None:
        """Audit every defense of the run, under every seed, that was not audited in full yet."""
        for seed in self.folder.spec.seeds:
            left = [
                (spec.name, norm)
                for spec in self.folder.spec.defenses
                for norm in norms_of(self.folder, spec.name, seed)
                if (spec.name, seed, norm) not in judged_in_full(self.folder)
            ]
            if left:
                _Seed(self, seed, left).run()


def judged_in_full(folder: RunFolder) -> set[tuple[str, int, str]]:
    """Return the (defense, seed, norm) that have the verdict of a full audit."""
    verdicts = read_verdicts(folder.path)
    full = verdicts[verdicts["level"] == "full"]
    return set(full[["defense", "seed", "norm"]].itertuples(index=False, name=None))


def threat_of(folder: RunFolder, norm: str) -> ThreatModel:
    """Return all budgets of the run's attacks in ``norm``."""
    attacks = [attack.threat for attack in folder.spec.attacks if attack.threat.norm == norm]
    return ThreatModel(norm, tuple(sorted({eps for threat in attacks for eps in threat.eps})))


@dataclass
class _Seed:
    """The defenses of one seed: those ``left`` to be judged, by norm; all serve as sources.

    A defense that fails in a part of the audit keeps the reason in ``troubles``.
    """

    audit: FullAudit
    seed: int
    left: Sequence[tuple[str, str]]
    targets: dict[str, Target] = field(default_factory=dict)
    cases: dict[str, Case] = field(default_factory=dict)
    findings: dict[str, list[Finding]] = field(default_factory=dict)
    troubles: dict[str, list[str]] = field(default_factory=dict)

    def run(self) -> None:
        for spec in self.audit.folder.spec.defenses:
            self._try(spec.name, "model", partial(self._load, spec))
        for name in dict.fromkeys(name for name, _ in self.left):
            if name in self.targets:
                self._try(name, "checks", partial(self._ask, name))
        for norm in dict.fromkeys(norm for _, norm in self.left):
            start = time.perf_counter()
            matrix = self._transfer(norm)
            share = (time.perf_counter() - start) / max(1, len(self.targets))
            for name in [name for name, own in self.left if own == norm]:
                self._try(name, f"{norm} attacks", partial(self._judge, name, norm, matrix, share))
        judged = judged_in_full(self.audit.folder)
        for name in dict.fromkeys(n for n, norm in self.left if (n, self.seed, norm) not in judged):
            reason = "; ".join(self.troubles.get(name, ["it was not attacked"]))
            audit_failed(self.audit.folder, name, self.seed, reason)

    def _try(self, name: str, what: str, do: Callable[[], None]) -> None:
        """Do a part of the audit; if it raises, say so, and let the rest of the audit go on."""
        folder, target = self.audit.folder, self.targets.get(name)
        kept = Kept.of(target.defense) if target else None
        try:
            with plugin_code():
                do()
        except Exception as error:
            reason = folder.keep_traceback(f"{name}-seed{self.seed}-audit-{what}", error)
            self.troubles.setdefault(name, []).append(f"{what} failed ({reason})")
            self.audit.progress.say(f"{name}: audit: {what} failed: {reason}")
        finally:
            if kept:
                kept.restore()

    def _load(self, spec: DefenseSpec) -> None:
        audit = self.audit
        record = audit.records.get((spec.name, self.seed))
        defense = audit.supply.recall(
            *(spec, record, audit.sets), seed=self.seed, progress=audit.progress
        )
        clean = CleanPredictions(defense)
        self.targets[spec.name] = Target(spec.name, self.seed, defense, clean)

    def _ask(self, name: str) -> None:
        audit, target = self.audit, self.targets[name]
        case = case_of(audit.folder, target, *audit.sets)
        self.findings[name] = ask(audit.folder, target, case, "full", audit.progress)
        self.cases[name] = case

    def _images(self, curves: Sequence[Curve]) -> ImageDataset:
        """Return the first images that an attack of the run saw: what is measured is paired."""
        seen = max(curve.success.shape[1] for curve in curves)
        return self.audit.sets[1].head(min(IMAGES, seen))

    # --- transfer ------------------------------------------------------------------------------

    def _transfer(self, norm: str) -> list[Transfer]:
        """Try every defense's images on every one, and keep the matrix."""
        audit = self.audit
        curves = [c for case in self.cases.values() for c in case.curves if c.norm == norm]
        if not curves:
            return []
        threat = threat_of(audit.folder, norm)
        if any(target.defense.stochastic for target in self.targets.values()):
            threat = shared(curves, threat)
        threat = telling(curves, threat, LEVELS)
        images = self._images(curves)
        models = [self._model(name) for name in undefended_first(list(self.targets))]
        found: list[Transfer] = []

        def seed_at(source: str, eps: float) -> int:
            own = audit.folder.spec.seed_name(source)
            return derive_seed(self.seed, images.info.name, "transfer", own, norm, eps)

        for source in [*models, *self._substitute()]:

            def row(source: AttackedModel = source) -> None:
                one = transfers(
                    [source], models, images, threat, seed_at=seed_at, progress=audit.progress
                )
                found.extend(one)

            self._try(source.name, f"{norm} images for the others", row)
        rows = list(transfer_rows(audit.folder, self.seed, found))
        put_transfer(audit.folder.path, make_table(rows, TRANSFER))
        return found

    def _model(self, name: str) -> AttackedModel:
        target = self.targets[name]
        seen = seen_through(self.audit.folder, target)
        return AttackedModel(name, target.defense, *seen, clean=target.clean)

    def _substitute(self) -> list[AttackedModel]:
        """Train the undefended model as a source where the run has a single, other defense."""
        audit, found = self.audit, list[Defense]()
        spec = substitute_for(audit.folder.spec)
        if spec is None:
            return []
        audit.progress.say(f"transfer: training {spec.name} as a substitute")

        def train() -> None:
            found.append(
                audit.supply.model(
                    *(spec, audit.sets), seed=self.seed, progress=audit.progress, before=None
                )[0]
            )

        self._try(spec.name, "substitute", train)
        return [AttackedModel(spec.name, defense) for defense in found]

    # --- stronger attacks and verdict ----------------------------------------------------------

    def _judge(self, name: str, norm: str, matrix: Sequence[Transfer], seconds: float) -> None:
        """Attack harder and judge; ``seconds`` went into the defense's transferred images."""
        if name not in self.findings:  # it could not be had or asked: the reason is kept
            return
        folder, target, case = self.audit.folder, self.targets[name], self.cases[name]
        plain = [curve for curve in case.curves if curve.norm == norm]
        images = self._images(plain) if plain else self.audit.sets[1]
        results = list(self._attack_harder(target, case, norm, images)) if plain else []
        crossed = from_others(name, matrix)
        samples = [f for r in results for f in stronger_samples(folder, name, self.seed, r, images)]
        seen = self.audit.sets[1].head(crossed[0].curve.success.shape[1]) if crossed else images
        samples += [f for one in crossed for f in transfer_samples(folder, self.seed, one, seen)]
        put_samples(folder.path, pd.concat(samples, ignore_index=True) if samples else no_samples())
        failures = [f"{one.spec.name} ({one.failure})" for one in results if one.failure]
        done = {one.spec.name: one for one in results if one.outcomes}
        verdict = judge(
            norm=norm,
            correct=correct_of(folder, target, self.audit.sets[1], norm)[: len(images)],
            stochastic=target.defense.stochastic,
            findings=self.findings[name],
            plain=case.curves,  # of all norms, by which a finding's own is known
            own=[one.curve for one in done.values()],
            transferred=[one.curve for one in crossed],
            missing=[*out_of_reach(target.defense), *failures, *self.troubles.get(name, [])],
            settings={attack: words_of(one) for attack, one in done.items()},
        )
        command = self._rerun(name, verdict, done)
        attacks = [attack.removeprefix("audit-") for attack in done]
        attacks += [one.curve.attack for one in crossed]
        seconds += sum(one.seconds for one in results)
        row = verdict_row(folder, name, self.seed, verdict, "full", attacks, seconds)
        row |= {"rerun": command}
        put_verdicts(folder.path, make_table([row], VERDICTS))
        self.audit.progress.say(f"{name}: audit, {norm}: {verdict}")
        if command:
            self.audit.progress.say(f"{name}: audit, {norm}: in a run of its own: {command}")

    def _rerun(self, name: str, verdict: Verdict, done: Mapping[str, StrongerResult]) -> str:
        """Return the command for the strongest of the attacks that beat the run's and that a run
        can do; "" where there is none."""
        at = verdict.at
        if not verdict.beaten_by or at is None:
            return ""
        beat = [attack for attack, left in at.left.items() if left <= at.plain - DROP + 1e-9]
        for attack in sorted(set(beat) & set(done), key=lambda attack: (at.left[attack], attack)):
            spec = self.audit.folder.spec
            if command := command_for(spec, name, self.seed, done[attack], at.eps):
                return command
        return ""

    def _attack_harder(
        self, target: Target, case: Case, norm: str, images: ImageDataset
    ) -> Iterator[StrongerResult]:
        audit = self.audit
        passes = FACTOR * passes_of(audit.folder, target, norm)
        if target.defense.stochastic:
            effort = Effort.of_stochastic(passes, draws=case.eot)
        else:
            effort = Effort.of(passes)
        found = attack_harder(
            case,
            images,
            threat_of(audit.folder, norm),
            self.findings[target.name],
            effort=effort,
            progress=audit.progress,
        )
        for one in found:
            left = min(one.curve.robust_accuracy) if one.outcomes else 1.0
            what = one.failure or (
                f"{left:.3f} at the largest eps, {one.fooled} fooled, {one.seconds:.0f} s"
            )
            audit.progress.say(f"{target.name}: {one.spec.name} ({one.why}): {what}")
            yield one
