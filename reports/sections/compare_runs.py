"""Runs on the same dataset, each beside the first: what was set differently, and what came out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from benchmark.results.run import Run
from reports.analysis.flags import flags_of, labelled
from reports.analysis.options import assignments, listed, mapping
from reports.analysis.outcomes import aligned, in_order, outcomes
from reports.analysis.pairs import (
    FEWEST,
    LEVEL,
    VERDICTS,
    Comparison,
    Counted,
    Standing,
    count,
    interval_words,
    p_words,
    seed_words,
    signed,
    standings,
    tested,
)
from reports.figures import curves
from reports.section import RunContext, Section, View, shown
from reports.sections.compare import in_words
from reports.tables import grid
from reports.tables.grid import ATTACK_KEY, Cell, Row, attack_title, is_number, number, span
from reports.tables.text_table import TextTable

KEY = [*ATTACK_KEY, "defense", "eps"]
ABSENT = "–"
PARTS = ("defense ", "attack ")
"""What begins the setting that names a part of the run; the part's own name begins its details."""


def make(contexts: Sequence[RunContext]) -> Section | None:
    """Return the section; None where no two runs share a dataset."""
    groups: dict[str, list[int]] = {}
    for i, context in enumerate(contexts):
        groups.setdefault(context.run.spec.dataset, []).append(i)
    groups = {dataset: group for dataset, group in groups.items() if len(group) > 1}
    if not groups:
        return None
    pairs = [(group[0], other) for group in groups.values() for other in group[1:]]
    comparisons = tested(item for pair in pairs for item in _compared(contexts, *pair))
    files: dict[str, bytes] = {}
    settings = [_settings(contexts, dataset, group) for dataset, group in groups.items()]
    for i, table in enumerate(settings, 1):
        name = f"compare-runs-settings-{i}"
        files |= table.files(name) | {f"{name}.csv": table.csv().encode()}
    frame = pd.concat([_beside(contexts, *pair, comparisons) for pair in pairs])
    files["compare-runs.csv"] = grid.table_csv(frame).encode()
    text = _text(frame)
    files |= text.files("compare-runs")
    view = {
        "runs": [(_name(i), contexts[i].title, contexts[i].run.run_id, contexts[i].id)
                 for group in groups.values() for i in group],
        "settings": settings,
        "parts": [_part(contexts, *pair, frame, comparisons, files) for pair in pairs],
        "family": span({c.family for c in comparisons if c.n}),
        "few": any(c.n and c.seeds < FEWEST and not c.same for c in comparisons),
        "enough": any(c.seeds >= FEWEST and not c.same for c in comparisons),
        "same": any(c.n and c.same for c in comparisons),
        "level": LEVEL,
    }  # fmt: skip
    return Section(
        "compare-runs", "The runs compared", "sections/compare_runs.html.j2", view, files
    )


def _name(number: int) -> str:
    return f"run {number + 1}"


# --- what was set differently ------------------------------------------------------------------


def _settings(contexts: Sequence[RunContext], dataset: str, group: Sequence[int]) -> TextTable:
    """Return the settings in which the runs of ``group`` differ, a column per run."""
    values = [_flat(contexts[i].run) for i in group]
    names = dict.fromkeys(name for own in values for name in own)
    # Of what only some runs have, the details say nothing about the others.
    lone = {name for name in names if name.startswith(PARTS) and any(name not in v for v in values)}
    details = tuple(f"{name.partition(' ')[2]}: " for name in lone)
    rows = [
        [name, *(own.get(name, ABSENT) for own in values)]
        for name in names
        if not name.startswith(details)
    ]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    caption = (
        f"What differs between the runs on {dataset}; a dash: not in this run, or not recorded"
    )
    return TextTable(caption, ["setting", *map(_name, group)], rows)


def _flat(run: Run) -> dict[str, str]:
    """Return everything that decides a run's numbers, name by name."""
    spec, origin = run.spec, run.provenance
    flat = {
        "preset": spec.preset,
        "study": spec.study or ABSENT,
        "images for training": str(spec.n_train),
        "images for testing": str(spec.n_test),
        "seeds": listed(spec.seeds),
    }
    for defense in spec.defenses:
        flat[f"defense {defense.name}"] = defense.type
        own = [model for model in run.models if model.defense == defense.name]
        used = own[0].options if own else defense.params
        flat |= {f"{defense.name}: {name}": text for name, text in assignments(used)}
    for attack in spec.attacks:
        title = attack_title(
            {"attack": attack.name, "library": attack.library, "norm": attack.threat.norm}
        )
        flat[f"attack {title}"] = attack.type
        flat |= {
            f"{title}: eps": listed(attack.threat.eps),
            f"{title}: images": str(attack.n),
            f"{title}: EOT": str(attack.eot),
            f"{title}: BPDA": "yes" if attack.bpda else "no",
        }
        flat |= {f"{title}: {name}": text for name, text in assignments(attack.params)}
    for name in ("dataset", "device", "versions"):
        flat |= {f"{name} {key}": text for key, text in assignments(mapping(origin).get(name))}
    for name in ("package_version", "git_sha"):
        flat[name.replace("_", " ")] = str(mapping(origin).get(name) or ABSENT)
    return flat


# --- what came out -----------------------------------------------------------------------------


def _compared(contexts: Sequence[RunContext], a: int, b: int) -> Iterator[Counted]:
    """Compare run ``a`` with run ``b`` in every cell of both; only on the same images."""
    if not same_images(contexts[a].run, contexts[b].run):
        return
    both = aligned(outcomes(contexts[a]), outcomes(contexts[b]))
    ours, theirs = (
        _with_models(standings(found), contexts[i].run)
        for found, i in zip(both, (a, b), strict=True)
    )
    for key in ours:
        if key in theirs:
            norm, attack, library, eps, defense = key
            # What is in one table: all defenses, and all runs beside the first.
            family = attack_title({"attack": attack, "library": library, "norm": norm})
            scope = _scope(attack, library, norm, defense)
            contest = (_name(a), _name(b), ours[key], theirs[key])
            yield from count(scope, eps, [contest], family)


Key = tuple[str, str, str, float, str]


def _with_models(found: Mapping[Key, Standing], run: Run) -> dict[Key, Standing]:
    """Name the trained models: two runs that differ in their attacks may share them."""
    keys = {(model.defense, model.seed): model.key for model in run.models}
    return {
        key: replace(own, models=[keys.get((key[-1], seed), "") for seed in own.seeds])
        for key, own in found.items()
    }


def _scope(attack: str, library: str, norm: str, defense: str) -> str:
    title = attack_title({"attack": attack, "library": library, "norm": norm})
    return f"{defense} under {title}"


def same_images(a: Run, b: Run) -> bool:
    """Tell whether the test images of two runs are known to be the same."""
    sums = {mapping(mapping(run.provenance).get("dataset")).get("test_checksum") for run in (a, b)}
    return len(sums) == 1 and None not in sums


def _beside(
    contexts: Sequence[RunContext], a: int, b: int, comparisons: Sequence[Comparison]
) -> pd.DataFrame:
    """Return a row per cell that both runs have: accuracies on all images, and on those compared.

    ``difference`` is on the images compared, where there are any.
    """
    measured = ["images", "robust_accuracy", "ci_low", "ci_high"]
    frames = []
    for i in (a, b):
        pooled = contexts[i].pooled
        frames.append(pooled.loc[pooled["status"] == "ok", [*KEY, *measured]])
    frame = frames[0].merge(frames[1], on=KEY, suffixes=("_first", "_other"))
    names = _name(a), _name(b)
    at = {(c.scope, c.eps): c for c in comparisons if (c.a, c.b) == names and c.n}
    found = [
        at.get((_scope(row["attack"], row["library"], row["norm"], row["defense"]), row["eps"]))
        for row in frame.to_dict("records")
    ]
    frame.insert(0, "first", names[0])
    frame.insert(1, "other", names[1])
    for column, name in (
        ("n_paired", "n"),
        ("seeds_paired", "seeds"),
        ("paired_first", "accuracy_a"),
        ("paired_other", "accuracy_b"),
        ("only_first", "only_a"),
        ("only_other", "only_b"),
        ("p", "p"),
        ("p_holm", "adjusted"),
        ("family", "family"),
    ):
        values = [getattr(comparison, name, None) for comparison in found]
        frame[column] = pd.Series(values, index=frame.index, dtype=float)
    for side in ("first", "other"):
        frame[f"shown_{side}"] = frame[f"paired_{side}"].fillna(frame[f"robust_accuracy_{side}"])
    frame["difference"] = frame["shown_other"] - frame["shown_first"]
    # The second run minus the first, as the difference.
    frame["difference_low"] = [-c.high if c else math.nan for c in found]
    frame["difference_high"] = [-c.low if c else math.nan for c in found]
    words = {"a": "first", "b": "other", "": ""}
    frame["trainings"] = [seed_words(c) if c else "" for c in found]
    frame["verdict"] = [VERDICTS[c.verdict].format(words[c.more]) if c else "" for c in found]
    return frame


def _text(frame: pd.DataFrame) -> TextTable:
    header = ["runs", "defense", "attack", "eps", "accuracies", "difference", "p", "n", "trainings"]
    rows = []
    records: list[Row] = frame.to_dict("records")
    for row in records:
        cell = _cell(row)
        rows.append(
            [
                f"{row['first']}, {row['other']}",
                row["defense"],
                attack_title(row),
                f"{row['eps']:g}",
                cell.interval,
                cell.value,
                cell.spread or ABSENT,
                cell.note,
                row["trainings"] or ABSENT,
            ]
        )
    caption = (
        "Robust accuracies of two runs on the images compared, and the second minus the first, from"
        " three trainings a side on with its interval over images and trainings"
    )
    return TextTable(caption, header, rows)


def _cell(row: Mapping[Any, Any]) -> Cell:
    """The difference above the two accuracies; no p-value where the images were not the same."""
    pair = f"{number(row['shown_first'])}, {number(row['shown_other'])}"
    tested = is_number(row["p_holm"])
    p = p_words([row["p_holm"]], largest=True) if tested else ""
    n = f"{row['n_paired']:g}" if tested else f"{row['images_first']:g}, {row['images_other']:g}"
    difference = signed(row["difference"])
    if is_number(row["difference_low"]):
        ends = interval_words(row["difference_low"], row["difference_high"])
        difference += f" {ends}"
    return Cell(difference, pair, p, n)


def _part(
    contexts: Sequence[RunContext],
    a: int,
    b: int,
    frame: pd.DataFrame,
    comparisons: Sequence[Comparison],
    files: dict[str, bytes],
) -> View:
    names = _name(a), _name(b)
    own = frame[(frame["first"] == names[0]) & (frame["other"] == names[1])]
    attacks: list[View] = []
    for values, group in own.groupby(ATTACK_KEY, sort=False):
        attack: Row = dict(zip(ATTACK_KEY, values, strict=True))
        order = [d.name for i in (a, b) for d in contexts[i].run.spec.defenses]
        defenses = in_order(group["defense"].tolist(), order)
        eps = sorted(set(group["eps"]))
        at = {(row["defense"], row["eps"]): _cell(row) for row in group.to_dict("records")}
        none = Cell("no result in both", status="missing")
        name = f"compare-runs-{a + 1}-{b + 1}-{len(attacks) + 1:02d}"
        picture = _curves(contexts, a, b, attack, defenses)
        attacks.append(
            {
                "title": attack_title(attack),
                "eps": eps,
                "rows": [
                    (name, [at.get((name, value), none) for value in eps]) for name in defenses
                ],
                "figure": shown(name, picture, files) if picture else None,
                "words": _words(comparisons, names, attack, defenses),
            }
        )
    same = same_images(contexts[a].run, contexts[b].run)
    return {"names": names, "attacks": attacks, "same": same}


def _words(
    comparisons: Sequence[Comparison],
    names: tuple[str, str],
    attack: Mapping[str, str],
    defenses: Sequence[str],
) -> list[tuple[str, str, str]]:
    rows = []
    for defense in defenses:
        scope = _scope(attack["attack"], attack["library"], attack["norm"], defense)
        own = [c for c in comparisons if c.scope == scope and (c.a, c.b) == names]
        rows += [(defense, pair["seeds"], pair["words"]) for pair in in_words(own)]
    return rows


def _curves(
    contexts: Sequence[RunContext],
    a: int,
    b: int,
    attack: Mapping[str, str],
    defenses: Sequence[str],
) -> Any:
    """Draw both runs' curves: the first's solid, the other's dashed."""
    styles, switches, labels = {}, {}, {}
    frames: list[list[pd.DataFrame]] = [[], []]
    for i, dashes in ((a, "-"), (b, (0, (4, 2)))):
        context = contexts[i]
        words = flags_of(context, attack["norm"])
        for defense in defenses:
            name = f"{defense}, {_name(i)}"
            labels[name] = f"{labelled(defense, words)}, {_name(i)}"
            styles[name] = {**context.styles[defense], "linestyle": dashes}
            switches[name] = defense
        for kept, whole in zip(frames, (context.pooled, context.cells), strict=True):
            mask = whole["defense"].isin(defenses)
            for key, value in attack.items():
                mask &= whole[key] == value
            own = whole[mask]
            kept.append(own.assign(defense=own["defense"] + f", {_name(i)}"))
    pooled, cells = (pd.concat(kept, ignore_index=True) for kept in frames)
    subject = f"{_name(a)} solid, {_name(b)} dashed"
    return curves.security_curves(pooled, cells, styles, subject, switches, labels)
