"""The audit: what its checks found, what its own attacks left, and whether to believe a number."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from benchmark.results.audit_words import ANSWERS, DISTRUSTED, MEANINGS, RULINGS
from reports.analysis.check_pages import explanation
from reports.analysis.outcomes import in_order
from reports.figures.heat_map import Matrix, heat_map
from reports.section import RunContext, Section, View, shown, slug
from reports.tables import grid
from reports.tables.grid import NORM_WORDS, is_number, number
from reports.tables.text_table import TextTable

Row = Mapping[Any, Any]

NOT_MEASURED = "not measured"


def make(context: RunContext) -> Section:
    """Return the section; a run that was not audited has one that says so."""
    audit = context.audit
    prefix, order = context.prefix, [defense.name for defense in context.run.spec.defenses]
    files: dict[str, bytes] = {}
    view: View = {
        "verdicts": None,
        "findings": None,
        "absent": _absent(context, order),
        "share": _share(context),
        "full": "full" in set(audit.verdicts["level"]),
        "folder": context.run.run_id,
        "maps": [],
    }
    if len(audit.verdicts):
        view["verdicts"] = verdicts = _verdicts(audit.verdicts, order)
        files |= _files(f"{prefix}audit", verdicts["table"], audit.verdicts)
        view["file"] = f"{prefix}audit"
    findings = _sorted(audit.findings, order)
    if len(findings):
        view["findings"] = _findings(findings, several=context.run.spec.seeds != (0,))
        view["checks"] = _checks(findings)
        files |= _files(f"{prefix}findings", view["findings"]["table"], findings)
        view["findings_file"] = f"{prefix}findings"
    if len(audit.transfer):
        view["maps"] = _maps(audit.transfer, order, prefix, files)
        files[f"{prefix}transfer.csv"] = grid.table_csv(audit.transfer).encode()
        view["transfer_file"] = f"{prefix}transfer.csv"
    title = "The audit: is it robust, or did the attack fail?"
    return Section("audit", title, "sections/audit.html.j2", view, files)


def _files(name: str, table: TextTable, frame: pd.DataFrame) -> dict[str, bytes]:
    return table.files(name) | {f"{name}.csv": grid.table_csv(frame).encode()}


def _absent(context: RunContext, order: Sequence[str]) -> list[str]:
    """Return the defenses that have a result and no verdict."""
    attacked = set(context.cells.loc[context.cells["status"] == "ok", "defense"])
    judged = set(context.audit.verdicts["defense"])
    return in_order([name for name in attacked if name not in judged], order)


def _share(context: RunContext) -> str:
    """Say how long the audit took beside the attacks."""
    own = context.audit.seconds
    attacks = float(context.cells["seconds"].fillna(0).sum())
    share = f", {own / attacks:.0%} of the attacks’ time".replace("%", " %") if attacks else ""
    return f"{own:.0f} s{share}"


# --- verdicts ----------------------------------------------------------------------------------

_CLASSES: dict[str, str] = {
    **dict.fromkeys(DISTRUSTED, "alarm"),
    "undecided": "undecided",
    "attacked fairly": "",
}
VERDICT_HEAD = (
    *("defense", "norm", "verdict", "why, or what to know", "eps", "clean", "run’s attacks"),
    *("stronger", "transfer", "at most", "n"),
)


def _verdicts(verdicts: pd.DataFrame, order: Sequence[str]) -> View:
    """Return the verdicts as a table, and as counts."""
    several = verdicts["seed"].nunique() > 1
    rows = _sorted(verdicts, order).to_dict("records")
    words = [_verdict_words(row, several=several) for row in rows]
    caption = (
        "The audit’s verdict on each defense, with accuracies at the eps that tells most: without"
        " an attack; under all of the run’s own attacks together; under the audit’s, transferred"
        " images among them; under transferred images alone; and per image under all of them, with"
        " its Wilson 95 % interval: the robust accuracy is at most that (where a defense answers at"
        " random, the lowest single attack counts in place of all together)"
    )
    return {
        "table": TextTable(caption, VERDICT_HEAD, words),
        "rows": [
            {
                "defense": row["defense"],
                "words": cells,
                "class": _CLASSES[str(row["verdict"])],
            }
            for row, cells in zip(rows, words, strict=True)
        ],
        "counts": [
            (NORM_WORDS.get(str(norm), str(norm)), _counts(own))
            for norm, own in verdicts.groupby("norm", sort=False)
        ],
        "meanings": [(w, MEANINGS[w]) for w in RULINGS if w in set(verdicts["verdict"])],
        "reruns": [
            {"defense": cells[0], "norm": cells[1], "line": row["rerun"]}
            for row, cells in zip(rows, words, strict=True)
            if row["rerun"]
        ],
    }


def _counts(verdicts: pd.DataFrame) -> list[tuple[str, int, str]]:
    counts = verdicts["verdict"].value_counts().to_dict()
    return [(word, counts[word], _CLASSES[word]) for word in RULINGS if word in counts]


def _verdict_words(row: Row, *, several: bool) -> list[str]:
    name = f"{row['defense']} (seed {row['seed']})" if several else str(row["defense"])
    low, high = row["headline_low"], row["headline_high"]
    headline = _measured(row["headline_accuracy"])
    if is_number(low) and is_number(high):
        headline += f" [{number(low)}, {number(high)}]"
    return [
        name,
        NORM_WORDS.get(str(row["norm"]), str(row["norm"])),
        str(row["verdict"]),
        str(row["reasons"] or row["remarks"]) or "–",
        f"{row['eps']:g}" if is_number(row["eps"]) else "–",
        _measured(row["clean_accuracy"]),
        _measured(row["plain_accuracy"]),
        _measured(row["stronger_accuracy"]),
        _measured(row["transfer_accuracy"]),
        headline,
        str(row["n"]),
    ]


def _measured(value: Any) -> str:
    return number(value) if is_number(value) else NOT_MEASURED


# --- findings ----------------------------------------------------------------------------------


def _sorted(frame: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """Return the rows by defense in the run's order, then by answer, the worst first."""
    rank = in_order(frame["defense"].tolist(), order)
    keys = {"defense": rank.index, "answer": ANSWERS.index}
    names = [name for name in ("defense", "answer") if name in frame]
    return frame.sort_values(
        names, key=lambda own: own.map(keys[str(own.name)]), kind="stable"
    ).reset_index(drop=True)


_ALERTS = {"alarm": "alarm", "undecided": "undecided"}
FINDING_HEAD = ("defense", "check", "answer", "value", "threshold", "evidence", "of")


def _findings(findings: pd.DataFrame, *, several: bool) -> View:
    """Return every answer as a table, and apart those that are not a pass."""
    rows = findings.to_dict("records")
    words = [_finding_words(row, several=several) for row in rows]
    caption = "What each check of the audit measured, and where its answer changes"
    shown_ = [
        {"defense": row["defense"], "words": cells, "class": _ALERTS.get(row["answer"], "")}
        for row, cells in zip(rows, words, strict=True)
    ]
    answers = findings["answer"].value_counts().to_dict()
    return {
        "table": TextTable(caption, FINDING_HEAD, words),
        "rows": shown_,
        "odd": [item for item, row in zip(shown_, rows, strict=True) if row["answer"] != "pass"],
        "counts": [(word, answers[word]) for word in ANSWERS if word in answers],
        "head": FINDING_HEAD,
    }


def _finding_words(row: Row, *, several: bool) -> list[str]:
    name = f"{row['defense']} (seed {row['seed']})" if several else str(row["defense"])
    return [
        name,
        str(row["check"]),
        str(row["answer"]) + (f": {row['reason']}" if row["reason"] else ""),
        f"{row['value']:.3g}" if is_number(row["value"]) else "–",
        f"{row['threshold']:.3g}" if is_number(row["threshold"]) else "–",
        str(row["evidence"]),
        _sweep(row) or "the defense",
    ]


def _sweep(row: Row) -> str:
    library = f" ({row['library']})" if row["library"] else ""  # which older audits do not name
    return f"{row['attack']}{library}" if row["attack"] else ""


def _checks(findings: pd.DataFrame) -> list[View]:
    """Explain the checks, those that gave anything but a pass first."""
    told = findings.loc[findings["answer"] != "pass", "check"]
    names = list(dict.fromkeys([*told, *findings["check"]]))
    questions = dict(zip(findings["check"], findings["question"], strict=True))
    odd = set(told)
    return [
        {
            "name": name,
            "question": questions[name],
            "parts": explanation(name),
            "open": name in odd,
        }
        for name in names
    ]


# --- transfer ----------------------------------------------------------------------------------


def _maps(
    transfer: pd.DataFrame, order: Sequence[str], prefix: str, files: dict[str, bytes]
) -> list[View]:
    """Return a heat map, with its table, per norm and eps; means over the seeds."""
    maps = []
    groups = dict(iter(transfer.groupby(["norm", "eps"])))
    for norm, eps in sorted(groups, key=lambda key: (key[0] != "linf", key)):
        own = groups[norm, eps]
        matrix = _matrix(own, order)
        ball = f"eps {eps:g}, {NORM_WORDS.get(str(norm), str(norm))}"
        dataset = str(own["dataset"].iloc[0])
        name = f"{prefix}transfer-{slug(str(norm), f'{eps:g}')}"
        caption = (
            f"Accuracy of each defense (column) on images made against each (row), on {dataset},"
            f" {ball}; {grid.span(own['n'])} images"
        )
        header = ["made against", *matrix.columns]
        rows = [
            [source, *(number(value) for value in values)]
            for source, values in zip(matrix.rows, matrix.values, strict=True)
        ]
        table = TextTable(caption, header, rows)
        files |= table.files(name) | {f"{name}.csv": table.csv().encode()}
        picture = heat_map(matrix, f"{dataset}: transfer, {ball}")
        maps.append({"figure": shown(name, picture, files), "table": table, "file": name})
    return maps


def _matrix(own: pd.DataFrame, order: Sequence[str]) -> Matrix:
    means = own.groupby(["source", "target"])["accuracy"].mean()
    rows = in_order(own["source"].tolist(), order)
    columns = in_order(own["target"].tolist(), order)
    values = [[float(means.get((s, t), float("nan"))) for t in columns] for s in rows]
    return Matrix(rows, columns, values)
