"""From a spec to rows: train each defense once, attack it, keep every cell's outcome.

The grid is walked seed by seed and defense by defense; after each sweep both tables are written,
so an interrupted run loses at most the sweep it was in, and the same command goes on from there.
A defense or an attack that raises leaves failed cells with its message, and an attack that does
not suit a defense leaves skipped ones; the run goes on.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from benchmark.attacks.loader import load_attack
from benchmark.audit.basic import audit_defense, audit_failed, audit_rest, unaudited
from benchmark.audit.run_results import Target
from benchmark.config.spec import AttackSpec, DefenseSpec, RunSpec
from benchmark.datasets.dataset import ImageDataset
from benchmark.datasets.load import load_images, load_present, say_classes, say_repeats
from benchmark.errors import UsageError
from benchmark.evaluation.applicability import unsuited
from benchmark.evaluation.embedding_map import code_map
from benchmark.evaluation.sweep import Outcome, sweep
from benchmark.execution.freshness import standing
from benchmark.execution.pending import Work, agenda, left, whole
from benchmark.hashing import derive_seed
from benchmark.io.locks import held
from benchmark.models.contract import Kept, check_answers, intact, repeats_itself
from benchmark.models.defense import Defense
from benchmark.plugins.containment import Limits
from benchmark.plugins.process_settings import settings_now
from benchmark.plugins.restart import failed_before
from benchmark.progress import Progress
from benchmark.results.audit_tables import forget
from benchmark.results.embedding_points import put_codes
from benchmark.results.model_records import ModelRecord, read_models
from benchmark.results.pictures import PICTURES, encoded, pictured_eps
from benchmark.results.provenance import attack_versions, provenance
from benchmark.results.run_folder import RunFolder
from benchmark.results.schema import CELLS, SAMPLES, Status
from benchmark.results.tables import make_table
from benchmark.seeding import UNREPEATABLE
from benchmark.stats import wilson_interval
from benchmark.training.fit import trained
from benchmark.training.origin import another

Result = TypeVar("Result")


@dataclass(frozen=True)
class RunResult:
    """Where a run lies and how its cells stand."""

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
    data_dir: Path | None,
    command: str,
    progress: Progress,
    time_limit: float = 0.0,
    audit: bool = True,
    retrain: bool = False,
) -> RunResult:
    """Run what is still missing of ``spec`` under ``out`` and return where it stands.

    Raises UsageError before anything is computed when the folder, the data or the spec will not
    do. Failed cells are tried again by the next call; ok and skipped ones never are. A training, or
    a cell, that is not done after ``time_limit`` seconds (0: any) fails; one that hangs where
    nothing can interrupt it ends the process, or begins it anew (:mod:`benchmark.plugins.restart`).
    With ``audit`` each defense is audited after its attacks (:mod:`benchmark.audit.basic`).

    Rows whose defense has changed since, or whose model comes out otherwise when it is trained
    again, are computed again, and a line says so; other images are refused. ``retrain`` takes up
    every defense, also one of which nothing is missing: for :func:`private_cache`.
    """
    folder = RunFolder.open(out, spec)
    failed = failed_before()
    idle = not (agenda(folder, failed) or folder.damaged or (audit and unaudited(folder)))
    if idle and not retrain and _stands(folder, data_dir, progress):
        return RunResult(folder.path, folder.cells, was_complete=not failed)
    train_set, test_set = load_images(spec, data_dir)
    about = provenance(spec, train_set, test_set, command)
    folder.begin(about)
    say_repeats(about, spec, progress)
    say_classes(test_set, spec, progress)
    with held(folder.path / ".lock", str(folder.path), progress):
        folder = RunFolder.open(out, spec)  # another process may have gone on with it
        folder.tidy()
        folder.mend(progress)
        _drop_stale(folder, train_set, progress)
        limits = Limits(time_limit, progress, set(failed))
        for planned in agenda(folder, failed, everything=retrain):
            work = left(folder, planned)
            if work is None:
                continue
            row = _Row(folder, about, work.seed, work.defense, progress, limits, audit)
            row.run(work, train_set, test_set)
            if not (intact(train_set) and intact(test_set)):  # a plugin changed them in place
                train_set, test_set = load_images(spec, data_dir)
        if audit:
            models = read_models(folder.path)
            audit_rest(folder, models, train_set, test_set, progress, may_train=False)
    return RunResult(folder.path, folder.cells, was_complete=False)


def _stands(folder: RunFolder, data_dir: Path | None, progress: Progress) -> bool:
    """Tell whether a complete run is of what is there now; say so where that cannot be told.

    UsageError if the images are others.
    """
    try:
        train_set, test_set = load_present(folder.spec, data_dir)
    except UsageError as error:
        progress.say(f"not checked against what is there now: {error}; the cells are as computed")
        return True
    checksums = {"train_checksum": train_set.checksum, "test_checksum": test_set.checksum}
    folder.check_images(checksums)
    if not (folder.path / "run.json").exists():
        progress.say("not checked whether the images are the same: there is no run.json")
    found = standing(folder, train_set)
    if not found.stale:
        found.say(progress)
    return not found.stale


def _drop_stale(folder: RunFolder, train_set: ImageDataset, progress: Progress) -> None:
    """Delete the rows of every defense that has changed since they were computed, and say so."""
    found = standing(folder, train_set)
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
    seed: int
    defense: DefenseSpec
    progress: Progress
    limits: Limits
    audit: bool

    def run(self, work: Work, train_set: ImageDataset, test_set: ImageDataset) -> None:
        """Train the defense, ask it about clean images and run the attacks that are missing."""
        name, spec = self.defense.name, self.folder.spec

        def train() -> tuple[Defense, ModelRecord, str]:
            before = self.folder.record(name, self.seed)
            model, record = trained(
                self.defense,
                train_set,
                test_set,
                seed=self.seed,
                progress=self.progress,
                before=before,
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
        for attack in work.attacks:
            self._attack(attack, model, test_set.head(attack.n), kept)
        if self.audit and work.attacks:
            self._audit(model, train_set, test_set)
            kept.restore()
        if work.codes:
            self._map_codes(model, test_set)

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

        def fail(reason: str) -> None:
            self._fail_codes()
            for attack in work.attacks:
                self._put(attack, [], f"{what} failed: {reason}")

        try:
            with self.limits.stretch(f"{name}: {what}", fail):
                return do()
        except Exception as error:
            reason = self.folder.keep_traceback(f"{name}-seed{self.seed}-{what}", error)
            self.progress.say(f"{name}: {what} failed: {reason}")
            fail(reason)
            return None

    def _fail_codes(self) -> None:
        """Let this command, should it begin anew, make no further attempt at the code map."""
        self.limits.failed.add((self.seed, self.defense.name, "", ""))

    def _map_codes(self, model: Defense, test_set: ImageDataset) -> None:
        """Bring the codes of test images to the plane; a failure costs the figure, not the run."""
        name, asked = self.defense.name, self.folder.spec.code_map
        assert asked is not None
        images = test_set.head(asked.attack.n)
        try:
            with self.limits.stretch(f"{name}: code map", lambda _: self._fail_codes()):
                points = code_map(model, asked.attack, images, name=name, seed=self.seed)
            put_codes(self.folder.path, points)
        except Exception as error:
            self._fail_codes()
            reason = self.folder.keep_traceback(f"{name}-seed{self.seed}-codes", error)
            self.progress.say(f"{name}: no code map: {reason}")
        else:
            self.progress.say(f"{name}: code map of {len(images)} test images")

    def _audit(self, model: Defense, train_set: ImageDataset, test_set: ImageDataset) -> None:
        """Ask whether the attacks can be believed; a failure costs the verdict, not the run."""
        name = self.defense.name

        def fail(reason: str) -> None:
            audit_failed(self.folder, name, self.seed, reason)

        try:
            with self.limits.stretch(f"{name}: audit", fail):
                target = Target(name, self.seed, model)
                audit_defense(self.folder, target, train_set, test_set, self.progress)
        except Exception as error:
            reason = self.folder.keep_traceback(f"{name}-seed{self.seed}-audit", error)
            self.progress.say(f"{name}: no audit: {reason}")
            fail(reason)

    def _attack(self, attack: AttackSpec, model: Defense, images: ImageDataset, kept: Kept) -> None:
        """Sweep one attack over its budgets; keep what was computed, whatever happens.

        An attack that does not suit the defense is skipped, and its cells say why. The model is
        afterwards what ``kept`` is.
        """
        spec = self.folder.spec
        outcomes: list[Outcome] = []

        def seed_at(eps: float) -> int:
            names = (images.info.name, self.defense.seed_name, attack.seed_name, attack.library)
            return derive_seed(self.seed, *names, eps)

        failure = skipped = ""
        what = f"{self.defense.name}, {attack.name} ({attack.library})"

        def keep(failure: str) -> None:
            self._put(attack, outcomes, failure, images, skipped=skipped)

        try:
            with self.limits.stretch(what, keep) as renew:
                settings = settings_now()
                searched = load_attack(attack)
                skipped = unsuited(model, searched, attack)
                if not skipped:
                    for outcome in sweep(
                        model,
                        searched,
                        attack,
                        images,
                        seed_at=seed_at,
                        progress=self.progress,
                        exact=spec.exact,
                    ):
                        kept.check("the attack, or forward under attack,", settings)
                        outcomes.append(outcome)
                        renew()
        except Exception as error:
            stem = f"{self.defense.name}-seed{self.seed}-{attack.library}-{attack.name}"
            failure = self.folder.keep_traceback(stem, error)
            self.progress.say(f"{what}: failed: {failure}")
        finally:
            keep(failure)
        kept.restore()
        if skipped:
            self.progress.say(f"{what}: skipped: {skipped}")
        elif not failure:
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
        failure: str,
        images: ImageDataset | None = None,
        *,
        skipped: str = "",
    ) -> None:
        """Write a sweep's rows: an ok cell per outcome, one with the reason per eps left."""
        if failure:
            names = (self.seed, self.defense.name, attack.name, attack.library)
            self.limits.failed.add(names)
        cells = [
            self._cell(attack, outcome.eps, "ok", outcome.notes, _measured(outcome, attack.n))
            | {"search_dtype": outcome.search_dtype or None}
            for outcome in outcomes
        ]
        if failure or skipped:
            done = {outcome.eps for outcome in outcomes}
            status: Status = "failed" if failure else "skipped"
            cells += [
                self._cell(attack, eps, status, failure or skipped, _missing())
                for eps in attack.threat.eps
                if eps not in done
            ]
        samples, pictures = make_table([], SAMPLES), make_table([], PICTURES)
        if outcomes and images is not None:
            tables = [self._samples(attack, outcome, images) for outcome in outcomes]
            samples = pd.concat(tables, ignore_index=True)
            pictures = self._pictures(attack, outcomes, samples, images)
        table = make_table(cells, CELLS)
        if self.folder.put(self.seed, self.defense, attack, table, samples, pictures):
            self.progress.say(f"{self.folder.path} was deleted meanwhile: written anew from memory")

    def _key(self, attack: AttackSpec, eps: float) -> dict[str, Any]:
        return {
            "dataset": self.folder.spec.dataset,
            "defense": self.defense.name,
            "attack": attack.name,
            "library": attack.library,
            "norm": attack.threat.norm,
            "eps": eps,
            "seed": self.seed,
        }

    def _cell(
        self,
        attack: AttackSpec,
        eps: float,
        status: Status,
        reason: str,
        numbers: Mapping[str, float],
    ) -> dict[str, Any]:
        return {
            **self._key(attack, eps),
            "eot": attack.eot,
            "bpda": attack.bpda,
            "status": status,
            "reason": reason,
            "n": attack.n,
            **numbers,
            "device": self.folder.spec.device,
            "preset": self.folder.spec.preset,
            "versions": json.dumps(
                {**self.about["versions"], **attack_versions(attack.library)}, sort_keys=True
            ),
            "git_sha": self.about["git_sha"],
        }

    def _samples(self, attack: AttackSpec, outcome: Outcome, images: ImageDataset) -> pd.DataFrame:
        columns = {
            "run_id": self.folder.spec.run_id,
            "sample_id": images.sample_ids.cpu().numpy(),
            **self._key(attack, outcome.eps),
            "label": images.labels.cpu().numpy(),
            "pred_clean": outcome.pred_clean.numpy(),
            "pred_adv": outcome.pred_adv.numpy(),
            "success": outcome.success.numpy(),
            "distance": outcome.distance.numpy(),
            "n_forward": outcome.n_forward.numpy(),
            "n_backward": outcome.n_backward.numpy(),
        }
        return pd.DataFrame(columns, columns=SAMPLES.names)

    def _pictures(
        self,
        attack: AttackSpec,
        outcomes: list[Outcome],
        samples: pd.DataFrame,
        images: ImageDataset,
    ) -> pd.DataFrame:
        """Return the rows of the sweep's pictures: none unless it came to their eps."""
        eps = pictured_eps(attack.threat.eps)
        shown = [outcome.pictures for outcome in outcomes if outcome.eps == eps]
        if not shown:
            return make_table([], PICTURES)
        k = len(shown[0])
        clean, adversarial = images.head(k).x().cpu().numpy(), shown[0].numpy()
        # Of a cell's samples the first are the first of the dataset's order: those pictured.
        rows = samples[samples["eps"] == eps].head(k).to_dict("records")
        return make_table(
            [
                {str(name): value for name, value in row.items() if name in PICTURES.names}
                | encoded(x, x_adv)
                for row, x, x_adv in zip(rows, clean, adversarial, strict=True)
            ],
            PICTURES,
        )


def _missing() -> dict[str, float]:
    names = ("clean_accuracy", "robust_accuracy", "ci_low", "ci_high", "median_distance")
    return dict.fromkeys(names, math.nan) | {"seconds": 0.0}


def _measured(outcome: Outcome, n: int) -> dict[str, float]:
    """The numbers of a cell; the distance is over the images that the attack itself turned."""
    stands = int((~outcome.success).sum())
    low, high = wilson_interval(stands, n)
    turned = outcome.distance[outcome.success & outcome.correct]
    return {
        "clean_accuracy": int(outcome.correct.sum()) / n,
        "robust_accuracy": stands / n,
        "ci_low": low,
        "ci_high": high,
        "median_distance": float(turned.quantile(0.5)) if len(turned) else math.nan,
        "seconds": outcome.seconds,
    }


def _summary(record: ModelRecord) -> str:
    last = record.log[-1] if record.log else {}
    parts = [f"{record.n_parameters:,} parameters, trained in {record.train_seconds:.0f} s"]
    for text, name in (("clean", "clean_accuracy"), ("adversarial", "adversarial_accuracy")):
        if name in last:
            parts.append(f"held-out {text} accuracy {last[name]:.3f}")
    if "code_distance" in record.measures:
        parts.append(f"codes {record.measures['code_distance']['value']:.3f} from the prior")
    return ", ".join(parts)
