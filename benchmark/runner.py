"""From a spec to rows: train each defense once, attack it, keep every cell's outcome.

The grid is walked seed by seed and defense by defense; after each sweep both tables are written,
so an interrupted run loses at most the sweep it was in, and the same command goes on from there.
A defense or an attack that raises leaves failed cells with its message, and an attack that does
not suit a defense leaves skipped ones; the run goes on.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmark.checkpoints import Checkpoints, cache_dir, model_key
from benchmark.code_map import code_map
from benchmark.code_points import put_codes, read_codes
from benchmark.codes import code_distance
from benchmark.datasets import DatasetSource, ImageDataset
from benchmark.defense import Defense
from benchmark.errors import TrainingError, UsageError
from benchmark.pictures import PICTURES, encoded, pictured_eps
from benchmark.plan import load_attack, load_defense
from benchmark.progress import Progress
from benchmark.provenance import attack_versions, provenance
from benchmark.registry import DATASETS
from benchmark.results import CELLS, SAMPLES, ModelRecord, Status, make_table, write_model
from benchmark.run_folder import RunFolder
from benchmark.seeding import seeded
from benchmark.spec import AttackSpec, DefenseSpec, RunSpec, derive_seed
from benchmark.stats import wilson_interval
from benchmark.suitability import unsuited
from benchmark.sweep import BATCH_SIZE, Outcome, sweep
from benchmark.training import TrainingSettings


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
    spec: RunSpec, *, out: Path, data_dir: Path | None, command: str, progress: Progress
) -> RunResult:
    """Run what is still missing of ``spec`` under ``out`` and return where it stands.

    Raises UsageError before anything is computed when the folder, the data or the spec will not
    do. Failed cells are tried again by the next call; ok and skipped ones never are.
    """
    folder = RunFolder.open(out, spec)
    lacks_codes = any(
        _lacks_codes(folder, seed, defense) for seed in spec.seeds for defense in spec.defenses
    )
    if all(folder.is_final(*key) for key in _sweeps(spec)) and not lacks_codes:
        return RunResult(folder.path, folder.cells, was_complete=True)
    source = DATASETS.load(spec.dataset)
    if not isinstance(source, DatasetSource):
        raise UsageError(
            f"dataset {spec.dataset!r}: {source!r} is no benchmark.datasets.DatasetSource"
        )
    train_set = source.load("train", n=spec.n_train, data_dir=data_dir, device=spec.device)
    test_set = source.load("test", n=spec.n_test, data_dir=data_dir, device=spec.device)
    about = provenance(spec, train_set, test_set, command)
    folder.begin(about)
    for seed in spec.seeds:
        for defense in spec.defenses:
            _Row(folder, about, seed, defense, progress).run(train_set, test_set)
    return RunResult(folder.path, folder.cells, was_complete=False)


def _sweeps(spec: RunSpec) -> Iterator[tuple[int, DefenseSpec, AttackSpec]]:
    for seed in spec.seeds:
        for defense in spec.defenses:
            for attack in spec.attacks:
                yield seed, defense, attack


def _lacks_codes(folder: RunFolder, seed: int, defense: DefenseSpec) -> bool:
    """Tell whether a defense's code map is asked for and not there."""
    asked = folder.spec.code_map
    if asked is None or defense.name not in asked.defenses:
        return False
    there = read_codes(folder.path)
    return not ((there["defense"] == defense.name) & (there["seed"] == seed)).any()


@dataclass(frozen=True)
class _Row:
    """One row of the grid: a defense under one seed, and the attacks on it."""

    folder: RunFolder
    about: Mapping[str, Any]
    seed: int
    defense: DefenseSpec
    progress: Progress

    def run(self, train_set: ImageDataset, test_set: ImageDataset) -> None:
        """Train the defense and run the attacks that are still missing."""
        name, spec = self.defense.name, self.folder.spec
        missing = [a for a in spec.attacks if not self.folder.is_final(self.seed, self.defense, a)]
        lacks_codes = _lacks_codes(self.folder, self.seed, self.defense)
        if not missing and not lacks_codes:
            return
        self.progress.say(f"{name} (seed {self.seed}): training on {len(train_set)} images")
        try:
            model, record = trained(
                self.defense, train_set, test_set, seed=self.seed, progress=self.progress
            )
        except Exception as error:
            reason = self.folder.keep_traceback(f"{name}-seed{self.seed}-training", error)
            if isinstance(error, TrainingError):
                reason = str(error)
            self.progress.say(f"{name}: training failed: {reason}")
            for attack in missing:
                self._put(attack, [], f"training failed: {reason}")
            return
        write_model(self.folder.path, record)
        self.progress.say(f"{name}: {_summary(record)}")
        for attack in missing:
            self._attack(attack, model, test_set.head(attack.n))
        if lacks_codes:
            self._map_codes(model, test_set)

    def _map_codes(self, model: Defense, test_set: ImageDataset) -> None:
        """Bring the codes of test images to the plane; a failure costs the figure, not the run."""
        name, asked = self.defense.name, self.folder.spec.code_map
        assert asked is not None
        images = test_set.head(asked.attack.n)
        try:
            points = code_map(model, asked.attack, images, name=name, seed=self.seed)
            put_codes(self.folder.path, points)
        except Exception as error:
            reason = self.folder.keep_traceback(f"{name}-seed{self.seed}-codes", error)
            self.progress.say(f"{name}: no code map: {reason}")
        else:
            self.progress.say(f"{name}: code map of {len(images)} test images")

    def _attack(self, attack: AttackSpec, model: Defense, images: ImageDataset) -> None:
        """Sweep one attack over its budgets; keep what was computed, whatever happens.

        An attack that does not suit the defense is skipped, and its cells say why.
        """
        spec = self.folder.spec
        outcomes: list[Outcome] = []

        def seed_at(eps: float) -> int:
            return derive_seed(
                self.seed, spec.dataset, self.defense.name, attack.name, attack.library, eps
            )

        failure = skipped = ""
        what = f"{self.defense.name}, {attack.name} ({attack.library})"
        try:
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
                    outcomes.append(outcome)
        except Exception as error:
            stem = f"{self.defense.name}-seed{self.seed}-{attack.library}-{attack.name}"
            failure = self.folder.keep_traceback(stem, error)
            self.progress.say(f"{what}: failed: {failure}")
        finally:
            self._put(attack, outcomes, failure, images, skipped=skipped)
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
        cells = [
            self._cell(attack, outcome.eps, "ok", outcome.notes, _measured(outcome, attack.n))
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
        self.folder.put(
            self.seed, self.defense, attack, make_table(cells, CELLS), samples, pictures
        )

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


# --- training --------------------------------------------------------------------------------


def trained(
    spec: DefenseSpec,
    train_set: ImageDataset,
    test_set: ImageDataset,
    *,
    seed: int,
    progress: Progress,
) -> tuple[Defense, ModelRecord]:
    """Return a defense in evaluation mode, trained now or taken from the cache, and its record."""
    model_seed = derive_seed(seed, train_set.info.name, spec.name)
    params = dict(spec.params)
    if "training" in params:
        params["training"] = TrainingSettings.build(params["training"])
    cls = load_defense(spec.type)
    with seeded(model_seed):
        defense = cls(train_set.info, **params)
    # Channels-last convolutions are up to twice as fast, on the CPU as on a GPU.
    defense.to(train_set.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    key = model_key(defense, spec, train_set, model_seed)
    cache = Checkpoints(cache_dir() / "models")
    log = cache.load(key, defense)
    if log is None:
        with seeded(model_seed, train_set.device):
            log = defense.fit(train_set, seed=model_seed, progress=progress)
        try:
            cache.save(key, defense, log)
        except OSError as error:  # a full disk must not cost the trained model
            progress.say(f"{spec.name}: not kept in {cache.folder} ({error.strerror})")
    defense.eval()
    return defense, ModelRecord(
        defense=spec.name,
        seed=seed,
        key=key,
        options=spec.params,
        n_parameters=sum(p.numel() for p in defense.parameters()),
        train_seconds=log.seconds,
        log=log.epochs,
        measures=_measures(defense, test_set, model_seed),
    )


@torch.no_grad()
def _measures(defense: Defense, test_set: ImageDataset, seed: int) -> dict[str, Any]:
    """Return what is measured on a trained model besides attacks: its own, its codes' distance."""
    with seeded(seed, test_set.device):
        measures = dict(defense.measure(test_set))
    with seeded(seed, test_set.device):
        parts = [defense.embed(test_set.x(rows)) for rows in test_set.batches(BATCH_SIZE)]
    codes = [part.double().cpu() for part in parts if part is not None]
    if len(codes) == len(parts):
        measures["code_distance"] = code_distance(torch.cat(codes).numpy(), seed)
    return measures


def _summary(record: ModelRecord) -> str:
    last = record.log[-1] if record.log else {}
    parts = [f"{record.n_parameters:,} parameters, trained in {record.train_seconds:.0f} s"]
    for text, name in (("clean", "clean_accuracy"), ("adversarial", "adversarial_accuracy")):
        if name in last:
            parts.append(f"held-out {text} accuracy {last[name]:.3f}")
    if "code_distance" in record.measures:
        parts.append(f"codes {record.measures['code_distance']['value']:.3f} from the prior")
    return ", ".join(parts)
