"""A run folder made up for tests of whatever reads one: no torch, no training, no attack."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.config.spec import AttackSpec, DefenseSpec, RunSpec
from benchmark.config.threat import ThreatModel
from benchmark.io.json_files import write_json
from benchmark.results import (
    CELL_KEY,
    CELLS,
    SAMPLES,
    ModelRecord,
    make_table,
    write_model,
    write_table,
    write_tables,
)
from benchmark.results.embedding_points import put_codes
from benchmark.results.tables import filled
from benchmark.stats import wilson_interval

DEFENSES = ("undefended", "madry", "ot-cla-adv", "<script>alert(1)</script>", "a_b%$#")
LINF = tuple(i / 40 for i in range(0, 17, 4))

PROVENANCE = {
    "command": "python -m benchmark run --defenses all --dataset mnist --preset quick",
    "started": "2026-11-23T01:00:00Z",
    "dataset": {
        "name": "mnist",
        "source": "torchvision's download",
        "train_checksum": "0f" * 32,
        "test_checksum": "a9" * 32,
        "n_train_available": 60000,
        "n_test_available": 10000,
    },
    "device": {"type": "cpu", "name": "AMD EPYC", "threads": 2},
    "versions": {"python": "3.11.2", "torch": "2.15.0", "numpy": "2.4.6"},
    "git_sha": "0123456789abcdef",
    "package_version": "0.1.0",
}


def fake_spec(
    defenses: Sequence[str] = DEFENSES,
    eps: Sequence[float] = LINF,
    seeds: Sequence[int] = (0, 1),
    n: int = 40,
) -> RunSpec:
    """A run of ``defenses`` under an l-inf and an l2 attack."""
    return RunSpec(
        dataset="mnist",
        preset="quick",
        n_train=1000,
        n_test=200,
        seeds=tuple(seeds),
        device="cpu",
        defenses=tuple(DefenseSpec(name, {"width": 8}) for name in defenses),
        attacks=(
            AttackSpec("pgd", ThreatModel("linf", tuple(eps)), n, params={"steps": 40}),
            AttackSpec("cw", ThreatModel("l2", (0.0, 1.0, 2.0)), n, library="art", eot=10),
        ),
    )


def fake_run(
    folder: Path,
    spec: RunSpec | None = None,
    *,
    states: dict[tuple[str, float], tuple[str, str]] | None = None,
    missing: Iterable[tuple[str, float]] = (),
    provenance: Any = PROVENANCE,
    codes: Iterable[str] = ("ot-cla-adv",),
    models: bool = True,
    reach: Mapping[str, Sequence[float]] | None = None,
    skipped: Mapping[tuple[str, str], str] | None = None,
    logs: Mapping[str, list[dict[str, Any]]] | None = None,
    measures: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write a run under ``folder``; return the run's folder.

    ``states`` maps (defense, eps) to a (status, reason) other than ("ok", ""); the cells in
    ``missing`` are left out of the tables. ``reach`` gives each image of a defense the distance at
    which it falls, under every attack; attacks other than pgd then return the nearest image.
    ``skipped`` gives the reason why all cells of a (defense, attack) were skipped. ``logs`` puts
    rows before a defense's epochs; ``measures`` adds to what was measured on it.
    """
    spec = spec or fake_spec()
    run_dir = folder / spec.run_id
    cells: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    missing = set(missing)
    for attack in spec.attacks:
        for i, defense in enumerate(spec.defenses):
            for seed in spec.seeds:
                for eps in attack.threat.eps:
                    if (defense.name, eps) in missing:
                        continue
                    state = (states or {}).get((defense.name, eps), ("ok", ""))
                    if reason := (skipped or {}).get((defense.name, attack.name)):
                        state = ("skipped", reason)
                    key = {
                        "dataset": spec.dataset,
                        "defense": defense.name,
                        "attack": attack.name,
                        "library": attack.library,
                        "norm": attack.threat.norm,
                        "eps": eps,
                        "seed": seed,
                    }
                    own = []
                    if state[0] == "ok" and reach:
                        own = _exact(key, reach[defense.name], spec.run_id)
                    elif state[0] == "ok":
                        own = _samples(key, i, attack.n, spec.run_id)
                    samples += own
                    cells.append(_cell(key, attack, *state, own))
    run_dir.mkdir(parents=True)
    (run_dir / "spec.json").write_text(spec.to_json(), "utf-8")
    write_json(run_dir / "run.json", provenance)
    write_tables(run_dir, make_table(cells, CELLS), make_table(samples, SAMPLES))
    if models:
        for defense in spec.defenses:
            for seed in spec.seeds:
                model = _model(defense.name, seed, defense.name in set(codes))
                log = [*(logs or {}).get(defense.name, []), *model.log]
                more = {**model.measures, **(measures or {}).get(defense.name, {})}
                write_model(run_dir, replace(model, log=log, measures=more))
    return run_dir


def _samples(key: dict[str, Any], rank: int, n: int, run_id: str) -> list[dict[str, Any]]:
    rng = np.random.default_rng([rank, key["seed"]])
    # The image's own distance to the boundary decides: curves fall, and more for the first.
    reach = rng.exponential(0.06 + 0.05 * rank, n) * (1 if key["norm"] == "linf" else 6)
    return _fallen(key, [float(r) for r in reach], run_id)


def _fallen(key: dict[str, Any], reach: Sequence[float], run_id: str) -> list[dict[str, Any]]:
    """The samples of a cell whose images fall at ``reach``; below 0.002 it is a clean error."""
    rows = []
    for i in range(len(reach)):
        clean_error, success = reach[i] < 0.002, bool(reach[i] <= max(key["eps"], 0.002))
        rows.append(
            {
                **key,
                "run_id": run_id,
                "sample_id": i,
                "label": 3,
                "pred_clean": 5 if clean_error else 3,
                "pred_adv": 5 if success else 3,
                "success": success,
                "distance": 0.0 if clean_error else min(reach[i], key["eps"]),
                "n_forward": 40,
                "n_backward": 40,
            }
        )
    return rows


def _exact(key: dict[str, Any], reach: Sequence[float], run_id: str) -> list[dict[str, Any]]:
    rows = _fallen(key, reach, run_id)
    if not key["attack"].startswith("pgd"):
        for row, far in zip(rows, reach, strict=True):
            row |= {"pred_adv": 5, "distance": 0.0 if far < 0.002 else far}
    return rows


def _cell(
    key: dict[str, Any], attack: AttackSpec, status: str, reason: str, own: list[dict[str, Any]]
) -> dict[str, Any]:
    n = len(own)
    robust = sum(not row["success"] for row in own)
    turned = [row["distance"] for row in own if row["success"]]
    low, high = wilson_interval(robust, n)
    return {
        **key,
        "eot": attack.eot,
        "bpda": attack.bpda,
        "status": status,
        "reason": reason,
        "n": n,
        "clean_accuracy": sum(row["pred_clean"] == 3 for row in own) / n if n else math.nan,
        "robust_accuracy": robust / n if n else math.nan,
        "ci_low": low,
        "ci_high": high,
        "median_distance": float(np.median(turned)) if turned else math.nan,
        "seconds": 1.5,
        "device": "cpu",
        "preset": "quick",
        "versions": "python 3.11.2, torch 2.15.0",
        "git_sha": "0123456789abcdef",
    }


def _model(defense: str, seed: int, codes: bool) -> ModelRecord:
    measures = {"value": 0.31, "ci_low": 0.28, "ci_high": 0.34, "floor": 0.05, "n": 200}
    log = [
        {
            "epoch": epoch,
            "seconds": 2.0,
            "lr": 1e-3,
            "loss": 2.3 / epoch + 0.1 * seed,
            "clean_accuracy": 1 - 0.6 / epoch,
            "adversarial_accuracy": math.nan if defense == "undefended" else 0.8 - 0.5 / epoch,
            **({"code_distance": 0.3 + 0.6 / epoch} if codes else {}),
        }
        for epoch in range(1, 7)
    ]
    return ModelRecord(
        defense=defense,
        seed=seed,
        key="k" * 12,
        options={"width": 8, "epochs": 6, "schedule": {"halve_every": 30}},
        n_parameters=123456,
        train_seconds=12.3,
        log=log,
        measures={"code_distance": measures} if codes else {},
    )


def fake_codes(
    run_dir: Path, defenses: Sequence[str] = ("e-cla", "ot-cla"), n: int = 100, classes: int = 10
) -> None:
    """Write a code map: classes on a circle; under attack every fourth image moves to the next."""
    rng = np.random.default_rng(0)
    label = np.arange(n) % classes
    for rank, defense in enumerate(defenses):
        parts = []
        for condition, attack, eps in (("clean", "", 0.0), ("attacked", "pgd", 0.2)):
            pred = np.where(np.arange(n) % 4 == 0, (label + 1) % classes, label)
            pred = pred if attack else label
            angle = 2 * np.pi * pred / classes
            columns = {"dataset": "mnist", "defense": defense, "seed": 0, "condition": condition}
            columns |= {"attack": attack, "eps": eps, "sample_id": np.arange(n), "label": label}
            columns |= {"pred": pred, "x": 9 * np.cos(angle) + rng.standard_normal(n)}
            columns |= {"y": (9 + rank) * np.sin(angle) + rng.standard_normal(n)}
            parts.append(pd.DataFrame(columns))
        put_codes(run_dir, pd.concat(parts, ignore_index=True))


def fake_large_run(folder: Path, spec: RunSpec) -> Path:
    """Write a run of ok cells, column by column: millions of samples within seconds.

    An image falls at its own distance, the same under every attack and seed of a defense.
    """
    run_dir = folder / spec.run_id
    run_dir.mkdir(parents=True)
    keys = pd.DataFrame(
        [
            (spec.dataset, defense.name, a.name, a.library, a.threat.norm, eps, seed, a.n, rank)
            for a in spec.attacks
            for rank, defense in enumerate(spec.defenses)
            for seed in spec.seeds
            for eps in a.threat.eps
        ],
        columns=[*CELL_KEY, "n", "rank"],
    )
    rng = np.random.default_rng(0)
    most = int(keys["n"].max())
    ranks = np.arange(len(spec.defenses))[:, None]
    reach = rng.exponential(0.06 + 0.05 * ranks, (len(ranks), most))
    robust = np.array(
        [(reach[r, :n] > e).sum() for r, n, e in keys[["rank", "n", "eps"]].itertuples(index=False)]
    )
    ends = [wilson_interval(k, n) for k, n in zip(robust, keys["n"], strict=True)]
    cells = keys.drop(columns="rank").assign(
        eot=1, bpda=False, status="ok", reason="", clean_accuracy=1.0,
        robust_accuracy=robust / keys["n"], ci_low=[low for low, _ in ends],
        ci_high=[high for _, high in ends], median_distance=0.1, seconds=1.5, device="cpu",
        preset=spec.preset, versions="python 3.11.2", git_sha="0123456789abcdef",
    )  # fmt: skip
    row = np.repeat(np.arange(len(keys)), keys["n"])
    sample = np.concatenate([np.arange(n) for n in keys["n"]])
    far = reach[keys["rank"].to_numpy()[row], sample]
    eps = keys["eps"].to_numpy()[row]
    fallen = far <= eps
    columns: dict[str, Any] = {
        "sample_id": sample,
        "label": np.full(len(row), 3),
        "pred_clean": np.full(len(row), 3),
        "pred_adv": np.where(fallen, 5, 3),
        "success": fallen,
        "distance": np.minimum(far, eps),
        "n_forward": np.full(len(row), 40),
        "n_backward": np.full(len(row), 40),
    }
    arrays = {name: pa.array(values) for name, values in columns.items()}
    arrays["run_id"] = pa.array([spec.run_id]).take(pa.array(np.zeros(len(row), int)))
    for name in CELL_KEY:
        codes, values = pd.factorize(keys[name])
        arrays[name] = pa.array(values.tolist()).take(pa.array(codes[row]))
    table = pa.table([arrays[name] for name in SAMPLES.names], schema=SAMPLES)
    (run_dir / "spec.json").write_text(spec.to_json(), "utf-8")
    write_json(run_dir / "run.json", PROVENANCE)
    pq.write_table(table, run_dir / "samples.parquet", compression="zstd")
    write_table(run_dir / "cells.parquet", filled(cells, CELLS)[CELLS.names], CELLS)
    for defense in spec.defenses:
        for seed in spec.seeds:
            write_model(run_dir, _model(defense.name, seed, codes=True))
    return run_dir
