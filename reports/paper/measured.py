"""The paper's tables and figures as data: what it publishes beside what runs measured.

One tidy frame per item. A row is one number, from one run; a point that no run was asked for keeps
its row with the status "not run". Accuracies are fractions in [0, 1]; ``difference`` is measured
minus published.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from benchmark.config.spec import AttackSpec
from benchmark.config.threat import eps_key, reach
from benchmark.results.audit_tables import read_verdicts
from benchmark.results.embedding_points import CODES, read_codes
from benchmark.results.run import Run
from benchmark.stats import wilson_interval
from reports.analysis.flags import flags_in
from reports.analysis.studies import member
from reports.paper import published as paper
from reports.paper.dimension import DimensionResult
from reports.tables.grid import ATTACK_KEY, STATUS_WORDS, grid, pool

NOT_RUN = "not run"
MEASURED = "measured"
POINT = ["dataset", "defense", "attack", "eps"]
NUMBERS = ["published", "measured", "ci_low", "ci_high", "n", "difference"]
SOURCE = ["status", "run_id", "preset", "seeds", "audit"]
ACCURACY = ["item", "dataset", "defense", "attack", "library", "eps", *NUMBERS, *SOURCE]
TABLE2 = ["item", "dataset", "defense", "attack", "library", "reading", "eps", *NUMBERS, *SOURCE]
FIGURE4 = [*ACCURACY[:5], "code_dim", *ACCURACY[5:]]
TABLE3 = [
    *("item", "dataset", "quantity", "method", "average", "scaling", "k1", "k2"),
    *(*NUMBERS, "status", "run_id", "preset"),
]
FIGURE5 = ["item", *CODES.names, "status", "run_id", "preset"]

Row = dict[Any, Any]


def paper_tables(
    runs: Sequence[Run], dimensions: Sequence[DimensionResult] = ()
) -> dict[str, pd.DataFrame]:
    """Return the frame of each item of the paper, by name: ``table1`` to ``figure5``."""
    points = pd.concat([_no_points(), *map(run_points, runs)], ignore_index=True)
    linf = points[points["norm"] == "linf"]
    return {
        "table1": _table1(linf),
        "table2": _table2(runs, points),
        "table3": _table3(runs, dimensions),
        "figure2": _curves("figure2", paper.FIGURE2, linf),
        "figure3": _curves("figure3", paper.FIGURE3, linf),
        "figure4": _figure4(runs, linf),
        "figure5": _figure5(runs),
    }


def run_points(run: Run) -> pd.DataFrame:
    """Return a row per (attack, defense, eps) of a run, pooled over seeds, with its status.

    ``audit`` is the verdict on the attacks in its norm, empty where there is none or no attack.
    Only of the paper's datasets and defenses, and of the members of studies.
    """
    ours = {d.name for d in run.spec.defenses if d.name in paper.DEFENSE_NAMES or member(d)}
    if run.spec.dataset not in paper.DATASETS or not ours:
        return _no_points()
    cells = grid(run)
    cells = cells[cells["defense"].isin(ours)]
    run_id = run.run_id  # hashes the whole spec
    words = flags_in(read_verdicts(run.path))
    keys = [*ATTACK_KEY, "defense", "eps"]
    lacking = cells[cells["status"].isin(["failed", "skipped"])]
    reasons = lacking.groupby([*keys, "status"], sort=False)["reason"].first().to_dict()
    rows = []
    for row in pool(cells, run.samples).to_dict("records"):
        key = tuple(row[name] for name in keys)
        rows.append(
            {
                **{name: row[name] for name in (*keys, "ci_low", "ci_high")},
                "measured": row["robust_accuracy"],
                "n": row["images"],
                "seeds": row["seeds_ok"] or row["seeds"],
                "status": _status(row["status"], reasons.get((*key, row["status"]), "")),
                "run_id": run_id,
                "preset": run.spec.preset,
                "audit": words.get((row["norm"], row["defense"]), "") if row["eps"] else "",
            }
        )
    return pd.DataFrame(rows, columns=_no_points().columns)


TRUST = (
    "Where several runs have a number, the one shown is of the preset paper before quick before any"
    " other, then over more images, then over more seeds, then from the in-house library; its value"
    " plays no part."
)
_PRESETS = {"paper": 0, "quick": 1}
_STATES = {MEASURED: 0, "failed": 1, "skipped": 2, NOT_RUN: 3}


def by_trust(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort rows of an item's frame, the one to show first: :data:`TRUST`, in numbers."""
    there = rows.reindex(columns=["status", "preset", "n", "seeds", "library"])
    order = pd.DataFrame(
        {
            "state": there["status"].str.partition(":")[0].map(_STATES),
            "preset": there["preset"].map(_PRESETS).fillna(len(_PRESETS)),
            "images": -there["n"].astype(float),
            "seeds": -there["seeds"].astype(float),
            "library": there["library"] != "inhouse",
        }
    )
    return rows.loc[order.sort_values(order.columns.to_list(), kind="stable").index]


def _status(status: str, reason: str) -> str:
    if status == "ok":
        return MEASURED
    return f"{STATUS_WORDS[status]}: {reason}" if reason else STATUS_WORDS[status]


def _no_points() -> pd.DataFrame:
    names = [*ATTACK_KEY, "defense", "eps", "measured", "ci_low", "ci_high", "n", *SOURCE]
    return pd.DataFrame(columns=names).astype({"eps": float, "measured": float})


def _against(item: str, expected: Iterable[Row], points: pd.DataFrame) -> pd.DataFrame:
    """Put the runs' points beside the expected ones, each a row of POINT and ``published``."""
    wanted = pd.DataFrame(list(expected), columns=[*POINT, "published"])
    # A grid typed as 0.3 and one computed as 3 * 0.1 mean the same budget.
    wanted, found = (frame.assign(at=frame["eps"].map(eps_key)) for frame in (wanted, points))
    merged = wanted.merge(
        found.drop(columns=["eps", "norm"]), how="left", on=["dataset", "defense", "attack", "at"]
    )
    return _finished(item, merged, ACCURACY)


def _finished(item: str, frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return the item's columns; rows without a run are "not run"."""
    words = dict.fromkeys(["library", "run_id", "preset", "audit"], "") | {"status": NOT_RUN}
    texts = {name: word for name, word in words.items() if name in frame}
    frame = _filled(frame, texts).assign(item=item)
    if {"published", "measured"} <= set(frame):
        frame["difference"] = frame["measured"].astype(float) - frame["published"].astype(float)
    return frame.reindex(columns=columns).reset_index(drop=True)


def _filled(frame: pd.DataFrame, texts: Mapping[str, str]) -> pd.DataFrame:
    """Return ``frame`` with a text in place of what is lacking in its columns."""
    return frame.assign(
        **{
            name: frame[name].astype(object).where(frame[name].notna(), text)
            for name, text in texts.items()
        }
    )


# --- Tables 1 and 2 ----------------------------------------------------------------------------


def _table1(points: pd.DataFrame) -> pd.DataFrame:
    return _against(
        "table1",
        (
            {"dataset": d, "defense": name, "attack": "pgd", "eps": eps, "published": value}
            for d, (budgets, defenses) in paper.TABLE1.items()
            for name, values in defenses.items()
            for eps, value in zip(budgets, values, strict=True)
        ),
        points,
    )


NEAREST = ("cw", "latent-cw")
"""Attacks that return the nearest image they find, in runs that do not tell an attack's family."""


def is_minimal(run: Run, attack: AttackSpec) -> bool:
    """Tell whether an attack's images can be judged at any threshold from their distance."""
    cells = run.cells
    mine = (cells["attack"] == attack.name) & (cells["library"] == attack.library)
    told = cells.loc[mine, "attack_family"].dropna()
    return bool((told == "minimal").any()) if len(told) else attack.type in NEAREST


def _table2(runs: Sequence[Run], points: pd.DataFrame) -> pd.DataFrame:
    """C&W on MNIST under both readings of the paper's threshold."""
    rows: list[Row] = []
    for defense, value in paper.TABLE2.items():
        for reading, eps in paper.TABLE2_READINGS.items():
            own = {"dataset": "mnist", "defense": defense, "reading": reading, "eps": eps}
            own["published"] = value
            found = [
                {**own, **row}
                for run in runs
                if run.spec.dataset == "mnist" and defense in {d.name for d in run.spec.defenses}
                for attack in run.spec.attacks
                if _is_table2(attack)
                for row in _at_threshold(run, points, defense, attack, eps)
            ]
            absent = set(paper.TABLE2_ATTACKS[defense]) - {row["attack"] for row in found}
            rows += [*found, *({**own, "attack": attack} for attack in sorted(absent))]
    return _finished("table2", pd.DataFrame(rows, columns=TABLE2), TABLE2)


def _is_table2(attack: AttackSpec) -> bool:
    return attack.threat.norm == "l2" and (attack.type in NEAREST or attack.bpda)


def _at_threshold(
    run: Run, points: pd.DataFrame, defense: str, attack: AttackSpec, eps: float
) -> list[Row]:
    """Return the row of one attack at one threshold, or none where a budget attack had another."""
    mine = (points["run_id"] == run.run_id) & (points["defense"] == defense)
    mine &= (points["attack"] == attack.name) & (points["library"] == attack.library)
    names = ["attack", "library", "measured", "ci_low", "ci_high", "n", *SOURCE]
    own = points[mine]
    if not is_minimal(run, attack):
        return own.loc[own["eps"].map(eps_key) == eps_key(eps), names].to_dict("records")
    if own.empty:
        return []
    # Where some eps are there and others not, one is enough: the images are the same at each.
    ok = own[own["status"] == MEASURED]
    row = (ok if len(ok) else own).iloc[-1][names].to_dict()
    return [row | _nearest(run, defense, attack, eps, int(row["n"]))] if len(ok) else [row]


def _nearest(run: Run, defense: str, attack: AttackSpec, eps: float, images: int) -> Row:
    """Judge the nearest images of an attack at ``eps``, with the harness' tolerance."""
    samples = run.samples
    mine = (samples["defense"] == defense) & (samples["attack"] == attack.name)
    own = samples[mine & (samples["library"] == attack.library)]
    # Every eps above 0 has the images that the attack found.
    own = own.sort_values("eps").drop_duplicates(["seed", "sample_id"], keep="last")
    fooled = (own["pred_adv"] != own["label"]) & (own["distance"] <= reach(eps))
    robust = float(1 - fooled.mean())
    low, high = wilson_interval(robust * images, images)
    return {"measured": robust, "ci_low": low, "ci_high": high}


# --- Table 3 -----------------------------------------------------------------------------------


def _table3(runs: Sequence[Run], dimensions: Sequence[DimensionResult]) -> pd.DataFrame:
    rows: list[Row] = []
    for dataset, (intrinsic, embedding) in paper.TABLE3.items():
        first = {"dataset": dataset, "quantity": "intrinsic dimension", "published": intrinsic}
        found = [row for d in dimensions if d.dataset == dataset for row in _estimates(d)]
        rows += [{**first, **row} for row in found or [{}]]
        second = {"dataset": dataset, "quantity": "embedding dimension", "published": embedding}
        used = {
            (run.run_id, run.spec.preset, int(defense.params["code_dim"]))
            for run in runs
            if run.spec.dataset == dataset
            for defense in run.spec.defenses
            if defense.name in ("ot-cla", "ot-cla-adv") and "code_dim" in defense.params
        }
        chosen = [
            {"method": "used", "measured": k, "status": MEASURED}
            | {"run_id": run_id, "preset": preset}
            for run_id, preset, k in sorted(used)
        ]
        rows += [{**second, **row} for row in chosen or [{}]]
    texts = dict.fromkeys(["method", "average", "scaling"], "")
    return _finished("table3", _filled(pd.DataFrame(rows, columns=TABLE3), texts), TABLE3)


def _estimates(found: DimensionResult) -> list[Row]:
    common = {"n": found.n, "status": MEASURED, "run_id": found.result_id}
    rows = [
        {
            **common,
            "method": "Levina-Bickel",
            **{name: row[name] for name in ("average", "scaling", "k1", "k2")},
            **{name: row[name] for name in ("ci_low", "ci_high")},
            "measured": row["value"],
        }
        for row in found.estimates
    ]
    if found.library is not None:
        words = f"library: {found.library_words or 'not named'}"
        rows.append({**common, "method": words, "measured": found.library})
    return rows


# --- figures -----------------------------------------------------------------------------------


def _curves(item: str, defenses: Sequence[str], points: pd.DataFrame) -> pd.DataFrame:
    """Accuracy against eps: the paper's grid, and whatever else the runs have of its curves.

    No points of the figures are published. A defense with noise has the fair attack's curve too.
    """
    shown = [
        (dataset, defense, "pgd", eps)
        for dataset in paper.DATASETS
        for defense in defenses
        for eps in paper.grid(dataset)
    ]
    of_it = points["dataset"].isin(paper.DATASETS) & points["defense"].isin(defenses)
    more = points[of_it & points["attack"].isin(["pgd", "pgd-eot"])]
    rows = {(*key[:3], eps_key(key[3])): key for key in shown}
    for key in more[POINT].itertuples(index=False, name=None):
        rows.setdefault((*key[:3], eps_key(key[3])), key)
    ordered = sorted(rows.values(), key=lambda k: (_place(k, defenses), k[2], k[3]))
    expected = ({**dict(zip(POINT, key, strict=True)), "published": math.nan} for key in ordered)
    return _against(item, expected, points)


def _place(key: tuple[Any, ...], defenses: Sequence[str]) -> tuple[int, int]:
    return paper.DATASETS.index(key[0]), list(defenses).index(key[1])


def _figure4(runs: Sequence[Run], points: pd.DataFrame) -> pd.DataFrame:
    """Studies of the embedding dimension; a dataset without one has a single row."""
    parts = []
    for run in runs:
        if run.spec.dataset not in paper.DATASETS:
            continue
        values = {
            defense.name: option[1]
            for defense in run.spec.defenses
            if defense.type == paper.FIGURE4
            and (option := member(defense)) is not None
            and option[0] == "code_dim"
        }
        own = points[(points["run_id"] == run.run_id) & points["defense"].isin(list(values))]
        parts.append(own.assign(code_dim=own["defense"].map(values)))
    found = pd.concat(parts) if parts else points.iloc[:0].assign(code_dim=math.nan)
    absent = [d for d in paper.DATASETS if d not in set(found["dataset"])]
    lacking = pd.DataFrame({"dataset": absent, "defense": paper.FIGURE4, "attack": "pgd"})
    frame = pd.concat([found, lacking], ignore_index=True).assign(published=math.nan)
    order = frame["dataset"].map(paper.DATASETS.index)
    frame = frame.assign(order=order).sort_values(["order", "code_dim", "attack", "eps"])
    return _finished("figure4", frame, FIGURE4)


def _figure5(runs: Sequence[Run]) -> pd.DataFrame:
    """Code maps, a row per point; a map of the paper's that no run has is a single row."""
    parts = [
        points.assign(status=MEASURED, run_id=run.run_id, preset=run.spec.preset)
        for run in runs
        if len(points := read_codes(run.path))
    ]
    there = {key for part in parts for key in zip(part["dataset"], part["defense"], strict=True)}
    lacking = [
        {"dataset": dataset, "defense": defense}
        for dataset in paper.FIGURE5["datasets"]
        for defense in paper.FIGURE5["defenses"]
        if (dataset, defense) not in there
    ]
    parts.append(pd.DataFrame(lacking, columns=["dataset", "defense"]))
    frame = pd.concat(parts, ignore_index=True).reindex(columns=FIGURE5)
    texts = dict.fromkeys(["condition", "attack"], "")
    return _finished("figure5", _filled(frame, texts), FIGURE5)
