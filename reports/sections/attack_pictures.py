"""Pictures of the attack: the same few images under every defense, before and after.

A rule chooses the images (:func:`chosen`), nobody's eye. Each is shown at one eps of its sweep,
with what the defense as deployed made of it there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmark.results.pictures import decoded, read_pictures
from benchmark.results.run import Run
from benchmark.results.schema import CELL_KEY
from reports.analysis.options import mapping
from reports.figures.tiles import (
    HEADS,
    SATURATED,
    Card,
    Coding,
    Strip,
    Tile,
    amplification,
    cards_of,
    mosaic,
    tiles,
)
from reports.section import RunContext, Section, View, slug
from reports.tables.grid import ATTACK_KEY, STATUS_WORDS, attack_title, table_csv

SHOWN = 4
"""At most this many of the kept images are shown."""

FIGURE_KEY = [*ATTACK_KEY, "eps"]
_PIXELS = ["channels", "height", "width", "original", "difference"]

Row = Mapping[Any, Any]


def make(context: RunContext) -> Section | None:
    """Return the section; None for a run without a single result.

    A run whose folder has no pictures gets a section that says so. A damaged table raises a
    ResultsError.
    """
    ok = context.cells.loc[context.cells["status"] == "ok", CELL_KEY]
    if ok.empty:
        return None
    # What an interruption left of a cell that is not there is no result.
    rows = read_pictures(context.run.path).merge(ok, on=CELL_KEY)
    rows = rows[rows["sample_id"].isin(chosen(rows))]
    drawn = [_figure(context, number, own) for number, own in enumerate(_attacks(rows, ok), 1)]
    coding = Coding.of(cards_of(strip for figure in drawn for strip in figure.strips))
    csv = f"{context.prefix}pictures.csv"
    files = {csv: table_csv(rows.drop(columns=_PIXELS)).encode()} if drawn else {}
    for figure in drawn:
        files |= figure.files()
    view = {
        "figures": [figure.view(coding) for figure in drawn],
        "heads": HEADS,
        "lossy": coding.qualities is not None,
        "csv": csv,
        "without": _without(rows, ok),
    }
    template = "sections/attack_pictures.html.j2"
    return Section("pictures", "Pictures of the attacks", template, view, files)


def chosen(rows: pd.DataFrame) -> list[int]:
    """Return the ids of the images to show: those that the most defenses get right unattacked.

    An attack shows nothing on an image that is wrong without it. Among equals the run's order
    decides; what the attacks did plays no part.
    """
    right = rows["defense"].where(rows["pred_clean"] == rows["label"])
    defenses = right.groupby(rows["sample_id"], sort=False).nunique()
    first = defenses.sort_values(ascending=False, kind="stable").index[:SHOWN]
    return [sample for sample in defenses.index if sample in set(first)]


def _attacks(rows: pd.DataFrame, ok: pd.DataFrame) -> list[pd.DataFrame]:
    """Split ``rows`` by attack and eps, in the order of the grid; of each, the lowest seed."""
    groups = dict(iter(rows.groupby(FIGURE_KEY, sort=False)))
    order = dict.fromkeys(ok[FIGURE_KEY].itertuples(index=False, name=None))
    found = [groups[key] for key in order if key in groups]
    return [own[own["seed"] == own["seed"].min()] for own in found]


def _without(rows: pd.DataFrame, ok: pd.DataFrame) -> list[str]:
    """Return the titles of the attacks that have results but no picture."""
    kept = set(rows[ATTACK_KEY].itertuples(index=False, name=None))
    attacks = dict.fromkeys(ok[ATTACK_KEY].itertuples(index=False, name=None))
    return [
        attack_title(dict(zip(ATTACK_KEY, attack, strict=True)))
        for attack in attacks
        if attack not in kept
    ]


@dataclass(frozen=True)
class _Figure:
    """The pictures of one attack at one eps: a strip of cards per defense.

    ``ids`` are the images', ``name`` the files' without their ending. ``absent`` names the
    defenses without a strip; ``seed`` is empty where the run has but one.
    """

    dataset: str
    heading: str
    name: str
    ids: Sequence[int]
    strips: Sequence[Strip]
    scale: str
    seed: str
    absent: Sequence[str]

    @property
    def alt(self) -> str:
        """Say what became of the images under each defense."""
        count = f"{len(self.ids)} image{'s' if len(self.ids) != 1 else ''}"
        parts = [
            f"{self.dataset}, {self.heading}: {', '.join(HEADS)} of the same {count} under each"
            " defense.",
            *(f"{strip.defense}: {strip.summary}." for strip in self.strips),
        ]
        if self.absent:
            parts.append(f"Without pictures: {', '.join(self.absent)}.")
        return " ".join(parts)

    def files(self) -> dict[str, bytes]:
        """Return the figure as SVG and PNG."""
        note = "; ".join(filter(None, [self.scale, self.seed]))
        picture = mosaic(f"{self.dataset}: {self.heading}", note, self.strips, self.alt)
        return {f"{self.name}.svg": picture.svg, f"{self.name}.png": picture.png}

    def view(self, coding: Coding) -> View:
        """Return what the template shows."""
        height, width = cards_of(self.strips)[0].tiles[0].shape[:2]
        return {
            "heading": self.heading,
            "file": self.name,
            "alt": self.alt,
            "scale": self.scale,
            "seed": self.seed,
            "ids": ", ".join(map(str, self.ids)),
            "absent": self.absent,
            "height": height,
            "width": width,
            "strips": [
                {
                    "defense": strip.defense,
                    "summary": strip.summary,
                    "cards": [card and _card_view(card, coding) for card in strip.cards],
                }
                for strip in self.strips
            ],
        }


def _figure(context: RunContext, number: int, rows: pd.DataFrame) -> _Figure:
    first: Row = rows.iloc[0].to_dict()
    title = attack_title(first)
    records: list[Row] = list(rows.to_dict("records"))
    pixels = [decoded(row) for row in records]
    differences = (images.difference for images in pixels)
    factor = amplification(differences, first["norm"], first["eps"])
    names = _class_names(context.run)
    cards = {
        (row["defense"], row["sample_id"]): _card(row, tiles(images, factor), names)
        for row, images in zip(records, pixels, strict=True)
    }
    ids = list(dict.fromkeys(rows["sample_id"]))
    by_defense = {str(name): own for name, own in rows.groupby("defense")}
    strips = [
        Strip(name, [cards.get((name, i)) for i in ids], _summary(by_defense[name]))
        # The grid's order of the defenses, not that in which they were run.
        for name in dict.fromkeys(context.cells["defense"])
        if name in by_defense
    ]
    return _Figure(
        dataset=first["dataset"],
        heading=f"{title} at eps {first['eps']:g}",
        name=f"{context.prefix}pictures-{number:02d}-{slug(*(first[key] for key in ATTACK_KEY))}",
        ids=ids,
        strips=strips,
        scale=_scale(factor, first),
        seed=f"models of seed {first['seed']}" if len(context.run.spec.seeds) > 1 else "",
        absent=_absent(context.cells, first, set(by_defense)),
    )


def _card_view(card: Card, coding: Coding) -> View:
    return {
        "id": card.sample_id,
        "tiles": list(zip(HEADS, coding.uris(card), strict=True)),
        "labels": card.labels,
        "fate": card.fate,
        "fooled": card.fooled,
    }


# --- words ---------------------------------------------------------------------------------------


def _summary(rows: pd.DataFrame) -> str:
    """Say on how many images a defense was fooled, and at what distances."""
    wrong = rows["pred_clean"] != rows["label"]
    fooled = rows[rows["success"] & ~wrong]
    text = f"{len(fooled)} of {len(rows)} fooled"
    if len(fooled):
        distances = [_distance(value) for value in fooled["distance"]]
        listed = " and ".join(filter(None, [", ".join(distances[:-1]), distances[-1]]))
        text += f", at distance{'s' if len(distances) > 1 else ''} {listed}"
    return text + (f"; {int(wrong.sum())} wrong without attack" if wrong.any() else "")


def _card(row: Row, shown: tuple[Tile, Tile, Tile], names: Sequence[str]) -> Card:
    """Return an image's card: its tiles, its labels before and after, and its fate."""
    label, clean, attacked = (
        _label(row[column], names) for column in ("label", "pred_clean", "pred_adv")
    )
    wrong = row["pred_clean"] != row["label"]
    labels = f"{label}, taken for {clean}" if wrong else f"{label} → {attacked}"
    distance = _distance(row["distance"])
    if wrong:
        fate = "wrong without attack"
    elif row["success"]:
        fate = f"fooled at distance {distance}"
    elif row["pred_adv"] == row["label"]:
        fate = "robust"
    else:  # outside the ball: how far a minimal-distortion attack had to go
        fate = f"only at distance {distance}: robust"
    return Card(row["sample_id"], shown, labels, fate, fooled=bool(row["success"] and not wrong))


def _class_names(run: Run) -> list[str]:
    """Return the dataset's class names, by label, where the run recorded them."""
    names = mapping(mapping(run.provenance).get("dataset")).get("class_names")
    return [str(name) for name in names] if isinstance(names, list) else []


def _label(value: int, names: Sequence[str]) -> str:
    return names[value] if 0 <= value < len(names) else str(value)


def _distance(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:.0f}"


def _scale(factor: float, first: Row) -> str:
    """Say by what the differences were multiplied, and why."""
    if first["norm"] == "linf":
        why = "eps reaches black and white"
    else:
        why = f"the largest {SATURATED:.0%} of the changes reach black and white"
    return f"difference ×{factor:g}, grey = unchanged, {why}"


def _absent(cells: pd.DataFrame, first: Row, shown: set[str]) -> list[str]:
    """Return ``madry (skipped)`` for each defense that the attack's figure does not show."""
    own = cells
    for column in (*FIGURE_KEY, "seed"):
        own = own[own[column] == first[column]]
    words = {**STATUS_WORDS, "ok": "not kept"}
    return [
        f"{defense} ({words[status]})"
        for defense, status in zip(own["defense"], own["status"], strict=True)
        if defense not in shown
    ]
