"""The paper's Tables 1 to 3 in its own grids, each number beside the one that was measured.

A grid is one thing in four forms: the page's view, CSV, Markdown and LaTeX. Accuracies are in
percent here, as the paper prints them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from benchmark.results.audit_words import DISTRUSTED
from reports.paper import published as paper
from reports.paper.measured import MEASURED, NOT_RUN, by_trust
from reports.tables.grid import is_number, span
from reports.tables.writers import (
    csv_text,
    latex_escape,
    latex_rows,
    markdown_escape,
    markdown_table,
)

LINES = ("published", "measured", "95 %", "difference")
NOTHING = "–"
RELATIONS = {"above": "↑", "within": "≈", "below": "↓"}
FLAGS: dict[str, str] = {**dict.fromkeys(DISTRUSTED, "!"), "undecided": "?"}
LEGEND = (
    "↑ and ↓: the measured number lies above or below the published one, which its 95 % interval"
    " does not hold; ≈: the interval holds the published number. It is over images only: another"
    " training would give another number. !: the"
    " audit does not believe it (attack too weak, gradient masking or invalid), so that the true"
    " number is lower or means nothing; ?: the audit is undecided."
)
CAUTION = (
    "A run of any other preset than paper reproduces nothing, however near its numbers: its"
    " networks are narrower, its images fewer, its training shorter."
)

Row = Mapping[Any, Any]


@dataclass(frozen=True)
class Entry:
    """A cell: what the paper has, and what was measured or the word for why there is nothing.

    ``relation`` is a key of ``RELATIONS``, or empty where no interval can tell. ``source`` is the
    run's letter, where a row has several; ``note`` the number of the reason. ``flag`` is the
    audit's verdict on the attacks, empty where there is none.
    """

    published: str
    measured: str
    interval: str = NOTHING
    difference: str = NOTHING
    relation: str = ""
    status: str = "ok"
    source: str = ""
    note: str = ""
    flag: str = ""

    @property
    def marked(self) -> str:
        """The measured number with its marks, or the status word with its reason's number."""
        note = f"({self.note})" if self.note else ""
        source = f"[{self.source}]" if self.source else ""
        flag = FLAGS.get(self.flag, "")
        words = (self.measured, RELATIONS.get(self.relation, ""), flag, source, note)
        return " ".join(word for word in words if word)

    @property
    def lines(self) -> tuple[str, str, str, str]:
        """The cell as the lines ``LINES``."""
        return self.published, self.marked, self.interval, self.difference


@dataclass(frozen=True)
class GridRow:
    """A row: what it is about, its cells, and the letters of the runs that these come from."""

    labels: tuple[str, ...]
    entries: tuple[Entry, ...]
    source: str

    @property
    def lines(self) -> list[list[str]]:
        """Its four lines: the labels begin the first, the runs end the second."""
        blank = [""] * len(self.labels)
        return [
            [
                *(blank if i else self.labels),
                what,
                *(entry.lines[i] for entry in self.entries),
                self.source if i == 1 else "",
            ]
            for i, what in enumerate(LINES)
        ]


@dataclass(frozen=True)
class Block:
    """Rows under one head: ``columns`` name the cells."""

    columns: tuple[str, ...]
    rows: tuple[GridRow, ...]


@dataclass(frozen=True)
class Grid:
    """A table of the paper.

    ``heads`` name a row's labels. ``runs`` are (letter, words) and ``reasons`` (number, words).
    """

    name: str
    title: str
    caption: str
    heads: tuple[str, ...]
    blocks: tuple[Block, ...]
    runs: tuple[tuple[str, str], ...]
    reasons: tuple[tuple[str, str], ...]
    caution: str = ""

    @property
    def words(self) -> str:
        """The whole caption."""
        return " ".join(part for part in (self.caption, self.caution, LEGEND) if part)

    @property
    def keys(self) -> list[tuple[str, str]]:
        """What the letters and numbers in the cells stand for."""
        return [*self.runs, *((f"({number})", reason) for number, reason in self.reasons)]

    def csv(self) -> str:
        """Return the grid as comma-separated values, the head again for each block."""
        lines: list[Sequence[str]] = []
        for block in self.blocks:
            lines.append([*self.heads, "number", *block.columns, "run"])
            lines += [line for row in block.rows for line in row.lines]
        return csv_text([*lines, *self.keys])

    def markdown(self) -> str:
        """Return the grid as GitHub's Markdown, a table per block."""
        parts = [f"**{self.title}.** {markdown_escape(self.words)}\n"]
        for block in self.blocks:
            head = [*self.heads, "number", *block.columns, "run"]
            lines = [line for row in block.rows for line in row.lines]
            parts.append(markdown_table(head, lines))
        if self.keys:
            parts.append(markdown_table(["mark", "meaning"], self.keys))
        return "\n".join(parts)

    def latex(self) -> str:
        """Return the grid as a LaTeX table for the booktabs package, as wide as a page's text."""
        body: list[str] = []
        for block in self.blocks:
            body += [r"\midrule"] if body else []
            body.append(latex_rows([_tex([*self.heads, "", *block.columns])]))
            for row in block.rows:
                body += [r"\midrule", latex_rows(map(_tex, _narrow(row)))]
        notes = latex_escape(" ".join(f"{mark}: {words}." for mark, words in self.keys))
        columns = "l" * (len(self.heads) + 1) + "c" * len(self.blocks[0].columns)
        return "\n".join(
            [
                "% needs \\usepackage{booktabs}",
                r"\begin{table}",
                r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
                f"\\caption{{{latex_escape(self.words)}}}",
                f"\\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                *(["", rf"\smallskip{{\raggedright {notes}\par}}"] if notes else []),
                r"\end{table}",
                "",
            ]
        )


def _narrow(row: GridRow) -> list[list[str]]:
    """Return a row's lines without its runs, what its labels have in brackets on the second."""
    lines = [line[:-1] for line in row.lines]
    for i, label in enumerate(row.labels):
        name, bracket, ours = label.partition(" (")
        lines[0][i], lines[1][i] = name, bracket.strip() + ours
    return lines


_SIGNED = re.compile(r"[+-][0-9.]+")


def _tex(cells: Sequence[str]) -> list[str]:
    return [f"${c}$" if _SIGNED.fullmatch(c) else latex_escape(c) for c in cells]


# --- the three tables --------------------------------------------------------------------------


def paper_grids(tables: Mapping[str, pd.DataFrame]) -> list[Grid]:
    """Return Tables 1 to 3 of :func:`reports.paper.measured.paper_tables`' frames."""
    return [_table1(tables["table1"]), _table2(tables["table2"]), _table3(tables["table3"])]


def _table1(frame: pd.DataFrame) -> Grid:
    best = _best(frame, ["dataset", "defense", "eps"])
    keys = _Keys()
    blocks: dict[tuple[float, ...], list[GridRow]] = {}
    for dataset, (budgets, defenses) in paper.TABLE1.items():
        for defense in defenses:
            labels = (paper.DATASET_NAMES[dataset], paper.named(defense))
            own = frame[(frame["dataset"] == dataset) & (frame["defense"] == defense)]
            shown = [best[dataset, defense, eps] for eps in budgets]
            blocks.setdefault(budgets, []).append(keys.row(labels, shown, own))
    return Grid(
        "table1",
        "Table 1",
        "Testing accuracy (%) under l∞ PGD; clean is eps 0.",
        ("Data", "Defense"),
        tuple(Block(tuple(map(_budget, eps)), tuple(rows)) for eps, rows in blocks.items()),
        *keys.listed,
        CAUTION,
    )


def _budget(eps: float) -> str:
    return f"eps {eps:g}" if eps else "clean"


ATTACK_WORDS = {"cw": "C&W", "latent-cw": "C&W over latents", "cw-bpda": "C&W with BPDA"}


def _table2(frame: pd.DataFrame) -> Grid:
    """The paper's attacks and any other with a number; what does not suit is left out."""
    best = _best(frame, ["defense", "attack", "reading"])
    keys = _Keys()
    rows = []
    for defense, published in paper.TABLE2.items():
        every = frame[frame["defense"] == defense]
        measured = every.loc[every["status"] == MEASURED, "attack"]
        for attack in dict.fromkeys([*paper.TABLE2_ATTACKS[defense], *measured]):
            lacking = {"published": published, "status": NOT_RUN}
            shown = [best.get((defense, attack, r), lacking) for r in paper.TABLE2_READINGS]
            words = f"{ATTACK_WORDS[attack]} ({attack})" if attack in ATTACK_WORDS else attack
            labels = (paper.named(defense), words)
            rows.append(keys.row(labels, shown, every[every["attack"] == attack]))
    readings = [
        f"{reading.replace('<=', '≤')}, which is l2 ≤ {eps:.3g}"
        for reading, eps in paper.TABLE2_READINGS.items()
    ]
    return Grid(
        "table2",
        "Table 2",
        "Testing accuracy (%) on MNIST under l2 C&W. The threshold of 0.005, normalized by the"
        f" number of pixels n, reads two ways: {' or '.join(readings)}. The published number stands"
        " under both.",
        ("Method", "Attack"),
        (Block(tuple(f"l2 ≤ {e:.3g}" for e in paper.TABLE2_READINGS.values()), tuple(rows)),),
        *keys.listed,
        CAUTION,
    )


# MacKay's, scaled by the variance, is the toolbox's that the paper names; some of MNIST's pixels
# have no variance, and there plain averaging comes nearest. The other settings: the tidy table.
INTRINSIC = {
    "intrinsic, MacKay": ("mackay", "var"),
    "intrinsic, plain": ("levina", "none"),
}


def _table3(frame: pd.DataFrame) -> Grid:
    intrinsic = frame["quantity"] == "intrinsic dimension"
    estimates = _best(frame[intrinsic], ["dataset", "average", "scaling"])
    used = _best(frame[~intrinsic], ["dataset"])
    keys = _Keys(scale=1)
    rows = []
    for dataset, (published, _) in paper.TABLE3.items():
        lacking = {"published": published, "status": NOT_RUN}
        shown = [estimates.get((dataset, *key), lacking) for key in INTRINSIC.values()]
        labels = (paper.DATASET_NAMES[dataset], paper.DATA_DIMENSIONS[dataset])
        own = frame[frame["dataset"] == dataset]
        rows.append(keys.row(labels, [*shown, used[dataset,]], own))
    return Grid(
        "table3",
        "Table 3",
        "Dimension of pixel space, intrinsic dimension by the Levina-Bickel estimator, embedding"
        " dimension of the OT-Classifier. MacKay: MacKay and Ghahramani's average, features divided"
        " by their variance. Plain: plain average, no scaling. The paper names neither.",
        ("Data", "Data dim."),
        (Block((*INTRINSIC, "embedding"), tuple(rows)),),
        *keys.listed,
    )


# --- cells -------------------------------------------------------------------------------------


def _best(frame: pd.DataFrame, keys: list[str]) -> dict[tuple[Any, ...], Row]:
    shown = by_trust(frame).drop_duplicates(keys)
    return {tuple(row[key] for key in keys): row for row in shown.to_dict("records")}


@dataclass
class _Keys:
    """Makes a grid's rows, and gives its runs their letters and its reasons their numbers.

    ``scale`` is 100 for percents and 1 for numbers that the paper prints whole.
    """

    scale: float = 100
    runs: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def listed(self) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
        """``runs`` and ``reasons`` of the grid, each mark before its words."""
        runs = tuple((mark, words) for words, mark in self.runs.items())
        return runs, tuple((mark, words) for words, mark in self.reasons.items())

    def row(self, labels: tuple[str, ...], shown: Sequence[Row], every: pd.DataFrame) -> GridRow:
        """Make a row of the cells ``shown``; ``every`` has what other runs measured of it."""
        letters = [self._letter(row) for row in shown]
        several = len(set(letters) - {""}) > 1
        entries = [
            self._entry(row, letter if several else "")
            for row, letter in zip(shown, letters, strict=True)
        ]
        words = []
        for letter in dict.fromkeys(filter(None, letters)):
            own = [row for row, mine in zip(shown, letters, strict=True) if mine == letter]
            images = span(int(row["n"]) for row in own if is_number(row.get("n")))
            words.append(f"{letter}, {images} images" if images else letter)
        measured = every[every["status"] == MEASURED].to_dict("records")
        others = sorted({self._letter(row) for row in measured} - set(letters))
        if others:
            words.append(f"also {', '.join(others)}")
        return GridRow(labels, tuple(entries), "; ".join(words) or NOT_RUN)

    def _letter(self, row: Row) -> str:
        if not row.get("run_id"):
            return ""
        about = [f"preset {row['preset']}"] if row.get("preset") else []
        if row.get("library", "inhouse") not in ("", "inhouse"):
            about.append(row["library"])
        if is_number(seeds := row.get("seeds")):
            about.append(f"{seeds:g} seed{'s' if seeds != 1 else ''}")
        words = ", ".join([row["run_id"], *about])
        return self.runs.setdefault(words, _letters(len(self.runs)))

    def _entry(self, row: Row, source: str) -> Entry:
        published = self._text(row["published"])
        if row["status"] != MEASURED:
            word, _, reason = str(row["status"]).partition(": ")
            note = self.reasons.setdefault(reason, str(len(self.reasons) + 1)) if reason else ""
            status = "missing" if word == NOT_RUN else word
            return Entry(published, word, status=status, source=source, note=note)
        ends = [row["ci_low"], row["ci_high"]]
        known = all(map(is_number, ends))
        return Entry(
            published,
            self._text(row["measured"]),
            f"[{self.scale * ends[0]:.1f}, {self.scale * ends[1]:.1f}]" if known else NOTHING,
            self._text(row["difference"], sign="+"),
            _relation(row["published"], *ends) if known else "",
            source=source,
            flag=str(row.get("audit", "")),
        )

    def _text(self, value: float, sign: str = "") -> str:
        """One decimal, as the paper prints; none where it prints whole numbers and this is one."""
        rounded = round(self.scale * value, 1) + 0.0  # no "-0.0"
        if self.scale == 1 and value == int(value):
            return f"{int(value):{sign if value else ''}d}"
        return f"{rounded:{sign}.1f}"


def _letters(i: int) -> str:
    """Return A to Z, then AA, AB and so on."""
    return ("" if i < 26 else _letters(i // 26 - 1)) + chr(ord("A") + i % 26)


def _relation(published: float, low: float, high: float) -> str:
    tolerance = 1e-9
    if low > published + tolerance:
        return "above"
    return "below" if high < published - tolerance else "within"
