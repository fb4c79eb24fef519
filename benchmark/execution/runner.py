"""From a spec to rows: train each defense once, attack it, keep every cell's outcome.

The grid is walked seed by seed and defense by defense; after each sweep both tables are written,
so an interrupted run loses at most the sweep it was in, and the same command goes on from there.
A defense or an attack that raises leaves failed cells with its message, and an attack that does
not suit a defense leaves skipped ones; the run goes on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from benchmark.attacks.loader import attack_family, load_attack
from benchmark.audit.basic import audit_defense, audit_failed, audit_rest, unaudited
from benchmark.audit.run_results import Target
from benchmark.config.spec import AttackSpec, DefenseSpec, RunSpec
from benchmark.datasets.dataset import ImageDataset
from benchmark.datasets.load import say_classes, say_repeats
from benchmark.errors import UsageError
from benchmark.evaluation.applicability import unsuited
from benchmark.evaluation.embedding_map import embedding_map
from benchmark.evaluation.nearest import NearestImages
from benchmark.evaluation.scoring import CleanPredictions
from benchmark.evaluation.sweep import Outcome, sweep
from benchmark.execution.freshness import freshness
from benchmark.execution.pending import Work, left, pending_work, whole
from benchmark.hashing import derive_seed
from benchmark.io.locks import held
from benchmark.models.contract import check_answers, intact, repeats_itself
from benchmark.models.defense import Defense
from benchmark.models.model_copy import Kept
from benchmark.plugins.containment import Limits, plugin_code
from benchmark.plugins.process_settings import contained, settings_now
from benchmark.plugins.restart import failed_before
from benchmark.progress import Progress
from benchmark.results.adversarial_images import put_adversarial
from benchmark.results.audit_tables import forget
from benchmark.results.embedding_points import put_codes
from benchmark.results.model_records import ModelRecord, read_models
from benchmark.results.pictures import PICTURES
from benchmark.results.provenance import provenance
from benchmark.results.rows import Lost, SweepRows, failure_kind
from benchmark.results.run_folder import RunFolder
from benchmark.results.schema import CELLS, SAMPLES, FailureKind
from benchmark.results.tables import make_table
from benchmark.seeding import UNREPEATABLE
from benchmark.training.origin import another
from benchmark.training.supply import TRAINED, Sets, Supply

Result = TypeVar("Result")

Watch = Callable[[pd.DataFrame], None]
"""Told of rows of cells.parquet that are on disk."""


def unwatched(_: pd.DataFrame) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class RunResult:
    """Where a run lies, and its cells."""

    path: Path
    cells: pd.DataFrame
    was_complete: bool

    @property
    def n_failed(self) -> int:
        """Number of cells that failed."""
        return int((self.cells["status"] == "failed").sum())


def run(
    spec: RunSpec,
    *,
    out: Path,
    command: str,
    progress: Progress,
    supply: Supply = TRAINED,
    time_limit: float = 0.0,
    audit: bool = True,
    retrain: bool = False,
    keep_images: bool = False,
    watch: Watch = unwatched,
) -> RunResult:
    """Run what is still missing of ``spec`` under ``out`` and return its result.

    Raises UsageError before anything is computed when the folder, the data or the spec will not
    do. Failed cells are tried again by the next call; ok and skipped ones never are. A training, or
    a cell, that is not done after ``time_limit`` seconds (0: any) fails; one that hangs where
    nothing can interrupt it ends the process, or restarts it (:mod:`benchmark.plugins.restart`).
    With ``audit`` each defense is audited after its attacks (:mod:`benchmark.audit.basic`); with
    ``keep_images`` the nearest adversarial image of each sample is kept
    (:mod:`benchmark.results.adversarial_images`).

    ``watch`` is told of the cells that are there before anything is computed, then of each sweep's.

    Rows whose defense has changed since, or whose model comes out otherwise when it is trained
    again, are computed again, and a line says so; other images are refused. ``retrain`` takes up
    every defense, also one of which nothing is missing: for :func:`private_cache`.
    """
    folder = RunFolder.open(out, spec)
    failed = failed_before()
    idle = not (pending_work(folder, failed) or folder.damaged or (audit and unaudited(folder)))
    if idle and not retrain and _is_fresh(folder, supply, progress):
        return RunResult(folder.path, folder.cells, was_complete=not failed)
    sets = supply.images(spec)
    about = provenance(spec, *sets, command)
    folder.begin(about)
    say_repeats(about, spec, progress)
    say_classes(sets[1], spec, progress)
    with held(folder.path / ".lock", str(folder.path), progress):
        folder = RunFolder.open(out, spec)  # another process may have gone on with it
        folder.tidy()
        folder.repair(progress)
        _drop_stale(folder, supply, sets, progress)
        watch(folder.cells)
        limits = Limits(time_limit, progress, set(failed))
        families = {(attack.name, attack.library): _family(attack) for attack in spec.attacks}
        for planned in pending_work(folder, failed, everything=retrain):
            work = left(folder, planned)
            if work is None:
                continue
            settings = (progress, limits, keep_images, watch)
            row = _Row(folder, about, families, work.seed, work.defense, *settings)
            row.run(work, supply, sets, audit=audit)
            if not all(map(intact, sets)):  # a plugin changed them in place
                sets = supply.images(spec)
        if audit:
            models = read_models(folder.path)
            audit_rest(folder, supply, models, sets, progress, may_train=False)
    return RunResult(folder.path, folder.cells, was_complete=False)


def _is_fresh(folder: RunFolder, supply: Supply, progress: Progress) -> bool:
    """Tell whether a complete run belongs to what is there now; say so where that is not known.

    UsageError if the images differ.
    """
    try:
        sets = supply.present(folder.spec)
    except UsageError as error:
        progress.say(f"not checked against what is there now: {error}; the cells are as computed")
        return True
    checksums = {"train_checksum": sets[0].checksum, "test_checksum": sets[1].checksum}
    folder.check_images(checksums)
    if not (folder.path / "run.json").exists():
        progress.say("not checked whether the images are the same: there is no run.json")
    found = freshness(folder, supply, sets)
    if not found.stale:
        found.say(progress)
    return not found.stale


def _drop_stale(folder: RunFolder, supply: Supply, sets: Sets, progress: Progress) -> None:
    """Delete the rows of every defense that has changed since they were computed, and say so."""
    found = freshness(folder, supply, sets)
    found.say(progress)
    for (name, seed), reason in found.stale.items():
        n = folder.drop(name, seed)
        progress.say(again(name, seed, n, reason))


def again(name: str, seed: int, n: int, reason: str) -> str:
    """Return the line that says why a defense's cells are computed again."""
    return (
        f"{name} (seed {seed}): {reason} since its {n} cells were computed: computed again"
        " (the old tables are kept as *.parquet.old)"
    )


@dataclass(frozen=True)
class _Row:
    """One row of the grid: a defense under one seed, and the attacks on it."""

    folder: RunFolder
    about: Mapping[str, Any]
    families: Mapping[tuple[str, str], str | None]
    seed: int
    defense: DefenseSpec
    progress: Progress
    limits: Limits
    keep_images: bool
    watch: Watch

    def run(self, work: Work, supply: Supply, sets: Sets, *, audit: bool) -> None:
        """Get the model, ask it about clean images and run the attacks that are missing."""
        name, spec, test_set = self.defense.name, self.folder.spec, sets[1]

        def train() -> tuple[Defense, ModelRecord, str]:
            before = self.folder.record(name, self.seed)
            model, record = supply.model(
                self.defense, sets, seed=self.seed, progress=self.progress, before=before
            )
            return model, record, _summary(record)

        ready = self._tried("training", work, train)
        if ready is None:
            return
        model, record, summary = ready
        work = self._unmixed(work, record)
        self.folder.put_model(record)
        self.progress.say(f"{name}: {summary}")

        def check() -> Kept:
            images = test_set.head(max((a.n for a in work.attacks), default=1))
            parts = (images.info.name, self.defense.seed_name, "check")
            seed = derive_seed(self.seed, *parts)
            check_answers(model, images, seed, lambda text: self.progress.say(f"{name}: {text}"))
            if model.stochastic and not repeats_itself(model, images, seed):
                self.progress.say(f"{name}: {UNREPEATABLE}")
            return Kept.of(model)

        kept = self._tried("check", work, check)
        if kept is None:
            return
        if work.attacks:
            forget(self.folder.path, spec.dataset, name, self.seed)
        clean = CleanPredictions(model)
        for attack in work.attacks:
            self._attack(attack, model, test_set.head(attack.n), kept, clean)
        if audit and work.attacks:
            self._audit(clean, sets)
            kept.restore()
        if work.codes:
            self._map_codes(clean, test_set)

    def _unmixed(self, work: Work, record: ModelRecord) -> Work:
        """Return ``work``, or all there is if the rows so far are of another model, which go."""
        name, before = self.defense.name, self.folder.record(self.defense.name, self.seed)
        if before is None or (self.defense, self.seed) not in self.folder.measured():
            return work
        if before.origin is None or record.origin is None:
            words = "its model was trained by another version" if before.key != record.key else ""
        else:
            words = another(before.origin, record.origin)
        if not words:
            return work
        n = self.folder.drop(name, self.seed)
        self.progress.say(again(name, self.seed, n, f"trained again it is another model ({words})"))
        return whole(self.folder, work, self.limits.failed)

    def _tried(self, what: str, work: Work, do: Callable[[], Result]) -> Result | None:
        """Return what ``do`` returns, or None if it fails, and with it all that is missing."""
        name = self.defense.name

        def fail(reason: str, kind: FailureKind = "time") -> None:
            self._fail_codes()
            for attack in work.attacks:
                self._put(attack, [], Lost(f"{what} failed: {reason}", kind))

        try:
            with self.limits.limited(f"{name}: {what}", fail):
                return do()
        except Exception as error:
            reason = self.folder.keep_traceback(f"{name}-seed{self.seed}-{what}", error)
            self.progress.say(f"{name}: {what} failed: {reason}")
            fail(reason, failure_kind(error))
            return None

    def _fail_codes(self) -> None:
        """Let this command, should it start again, make no further attempt at the code map."""
        self.limits.failed.add((self.seed, self.defense.name, "", ""))

    def _map_codes(self, clean: CleanPredictions, test_set: ImageDataset) -> None:
        """Bring embeddings of test images to the plane; a failure costs the figure, not the run."""
        name, asked = self.defense.name, self.folder.spec.code_map
        assert asked is not None
        images = test_set.head(asked.attack.n)
        try:
            with self.limits.limited(f"{name}: code map", lambda _: self._fail_codes()):
                points = embedding_map(
                    *(clean.defense, asked.attack, images), name=name, seed=self.seed, clean=clean
                )
            put_codes(self.folder.path, points)
        except Exception as error:
            self._fail_codes()
            reason = self.folder.keep_traceback(f"{name}-seed{self.seed}-codes", error)
            self.progress.say(f"{name}: no code map: {reason}")
        else:
            self.progress.say(f"{name}: code map of {len(images)} test images")

    def _audit(self, clean: CleanPredictions, sets: Sets) -> None:
        """Ask whether the attacks can be believed; a failure costs the verdict, not the run."""
        name = self.defense.name

        def fail(reason: str) -> None:
            audit_failed(self.folder, name, self.seed, reason)

        try:
            with self.limits.limited(f"{name}: audit", fail):
                target = Target(name, self.seed, clean.defense, clean)
                audit_defense(self.folder, target, *sets, self.progress)
        except Exception as error:
            reason = self.folder.keep_traceback(f"{name}-seed{self.seed}-audit", error)
            self.progress.say(f"{name}: no audit: {reason}")
            fail(reason)

    def _attack(
        self,
        attack: AttackSpec,
        model: Defense,
        images: ImageDataset,
        kept: Kept,
        clean: CleanPredictions,
    ) -> None:
        """Sweep one attack over its budgets; keep what was computed, whatever happens.

        An attack that does not suit the defense is skipped, and its cells say why. The model is
        afterwards what ``kept`` is.
        """
        spec = self.folder.spec
        outcomes: list[Outcome] = []
        nearest = NearestImages(images) if self.keep_images else None

        def seed_at(eps: float) -> int:
            names = (images.info.name, self.defense.seed_name, attack.seed_name, attack.library)
            return derive_seed(self.seed, *names, eps)

        lost: Lost | None = None
        what = f"{self.defense.name}, {attack.name} ({attack.library})"

        def hung(reason: str) -> None:
            self._put(attack, outcomes, Lost(reason, "time"), images)

        try:
            with self.limits.limited(what, hung) as renew:
                settings = settings_now()
                searched = load_attack(attack)
                if reason := unsuited(model, searched, attack):
                    lost = Lost(reason, "skipped")
                else:
                    for outcome in sweep(
                        model,
                        searched,
                        attack,
                        images,
                        seed_at=seed_at,
                        progress=self.progress,
                        exact=spec.exact,
                        clean=clean,
                        nearest=nearest,
                    ):
                        kept.check("the attack, or forward under attack,", settings)
                        outcomes.append(outcome)
                        renew()
        except Exception as error:
            stem = f"{self.defense.name}-seed{self.seed}-{attack.library}-{attack.name}"
            lost = Lost(self.folder.keep_traceback(stem, error), failure_kind(error))
        finally:
            if nearest is not None and outcomes:
                found = nearest.rows(self.defense.name, self.seed, attack)
                put_adversarial(self.folder.path, found)
            self._put(attack, outcomes, lost, images)
        kept.restore()
        if lost is not None:
            self.progress.say(f"{what}: {lost.status}: {lost.reason}")
        else:
            accuracies = [1 - float(o.success.double().mean()) for o in outcomes]
            self.progress.say(
                f"{what}: accuracy {accuracies[0]:.3f} at eps {outcomes[0].eps:g}"
                f" to {accuracies[-1]:.3f} at eps {outcomes[-1].eps:g},"
                f" {sum(o.seconds for o in outcomes):.0f} s"
            )

    def _put(
        self,
        attack: AttackSpec,
        outcomes: list[Outcome],
        lost: Lost | None,
        images: ImageDataset | None = None,
    ) -> None:
        """Write a sweep's rows: an ok cell per outcome, one with the reason per eps ``lost``."""
        names = (attack.name, attack.library)
        if lost is not None and lost.status == "failed":
            self.limits.failed.add((self.seed, self.defense.name, *names))
        rows = SweepRows(
            self.folder.spec, self.defense.name, attack, self.seed, self.about, self.families[names]
        )
        cells = [rows.ok(outcome) for outcome in outcomes]
        if lost is not None:
            done = {outcome.eps for outcome in outcomes}
            cells += [rows.lost(eps, lost) for eps in attack.threat.eps if eps not in done]
        samples, pictures = make_table([], SAMPLES), make_table([], PICTURES)
        if outcomes and images is not None:
            tables = [rows.samples(outcome, images) for outcome in outcomes]
            samples = pd.concat(tables, ignore_index=True)
            pictures = rows.pictures(outcomes, samples, images)
        table = make_table(cells, CELLS)
        if self.folder.put(self.seed, self.defense, attack, table, samples, pictures):
            self.progress.say(
                f"{self.folder.path} was deleted meanwhile: written again from memory"
            )
        self.watch(table)


def _family(attack: AttackSpec) -> str | None:
    """Return an attack's family; None if it cannot be imported, which its cells will say."""
    try:
        with plugin_code(), contained():
            return attack_family(attack)
    except Exception:
        return None


def _summary(record: ModelRecord) -> str:
    last = record.log[-1] if record.log else {}
    parts = [f"{record.n_parameters:,} parameters"]
    if record.log or record.train_seconds:
        parts[0] += f", trained in {record.train_seconds:.0f} s"
    for text, name in (("clean", "clean_accuracy"), ("adversarial", "adversarial_accuracy")):
        if name in last:
            parts.append(f"held-out {text} accuracy {last[name]:.3f}")
    if "code_distance" in record.measures:
        parts.append(f"codes {record.measures['code_distance']['value']:.3f} from the prior")
    return ", ".join(parts)
