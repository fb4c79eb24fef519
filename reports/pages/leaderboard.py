"""One ranking table over the models of many runs: a page, Markdown and CSV."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from benchmark.config.threat import NORMS
from benchmark.errors import MachineError, UsageError, one_line, unknown_name
from benchmark.hashing import digest
from benchmark.io.paths import own_folder, real
from benchmark.results.audit_words import DISTRUSTED, MEANINGS
from benchmark.results.run import read_run
from reports.pages.page_files import write_files
from reports.pages.standings import (
    NOT_AUDITED,
    ORDERS,
    Entry,
    Order,
    Ranking,
    Share,
    Standings,
    entries_of,
    standings,
)
from reports.section import View
from reports.tables.grid import NORM_WORDS, number
from reports.tables.writers import csv_text, markdown_escape, markdown_table
from reports.templating import asset, content_policy, environment, script

PAGE = "leaderboard.html"
MARKS = {"attacked fairly": "✓", NOT_AUDITED: "–", "undecided": "?"}
DOUBT = "✗"  # all other verdicts


@dataclass(frozen=True)
class Leaderboard:
    """Where the page lies, what it ranks, and a line for each folder that could not be read."""

    page: Path
    standings: Standings
    unread: Sequence[str]


def write_leaderboard(
    run_dirs: Sequence[Path],
    out: Path | None = None,
    *,
    norm: str = "",
    eps: Sequence[float] = (),
    sort: str = "worst",
) -> Leaderboard:
    """Rank the models of ``run_dirs``; write leaderboard.html, .md and .csv into ``out``.

    Without ``out`` that is ``leaderboard-<hash of the runs>/`` within the first run's folder.
    ``norm`` (all by default) and ``eps`` choose what is ranked, ``sort`` is ``worst`` or
    ``clean``. Folders that are no run, or damaged, are left out and told. UsageError if nothing is
    left to rank.
    """
    if norm and norm not in NORMS:
        raise unknown_name("norm", norm, NORMS)
    if sort not in ORDERS:
        raise unknown_name("order", sort, ORDERS)
    if eps and min(eps) <= 0:
        raise UsageError("--eps: a ranking needs eps above 0; the clean accuracy is in it anyway")
    entries: list[Entry] = []
    unread, read = [], []
    for path in {real(path): path for path in run_dirs}.values():
        try:
            own = entries_of(read_run(path))
        except (UsageError, MachineError, OSError, ValueError) as error:
            unread.append(one_line(f"{path} is left out: {error}"))
            continue
        read.append(path)
        entries += [entry for entry in own if not norm or entry.norm == norm]
        if not own:
            unread.append(
                one_line(f"{path} is left out: no attack at an eps above 0 has finished in it")
            )
    order: Order = "clean" if sort == "clean" else "worst"
    found = standings(entries, eps=eps, sort=order)
    if not found.rankings:
        # What could be read but has other eps tells more than a folder that is damaged besides.
        reasons = [*(f"{run}, {name}: {why}" for run, name, why in found.left_out), *unread]
        told = reasons[0] if reasons else f"no run was attacked in {norm}"
        raise UsageError(f"leaderboard: nothing to rank; {told}")
    if out is None:
        out = read[0] / f"leaderboard-{digest(*(real(path).name for path in read))[:10]}"
    if out.parent == read[0]:
        own_folder(out, read[0])  # the run may be a stranger's, and hold a link there
    html, files = render(found, order, unread, out)
    return Leaderboard(write_files(out / PAGE, html, files, clear=True), found, unread)


def render(
    found: Standings, sort: Order, unread: Sequence[str], folder: Path
) -> tuple[str, dict[str, bytes]]:
    """Return the page, and the Markdown and CSV beside it, by name; links start at ``folder``."""
    parts = [_part(ranking, folder) for ranking in found.rankings]
    policy = content_policy([script("report.js")])
    view = {"parts": parts, "sort": sort, "left_out": found.left_out, "unread": unread}
    words = {"distrusted": " or ".join(DISTRUSTED), "meanings": MEANINGS, "policy": policy}
    css = asset("report.css") + asset("pages/leaderboard.css")
    template = environment().get_template("pages/leaderboard.html.j2")
    html = template.render(**view, **words, css=css, script=script("report.js"))
    files = {"leaderboard.md": markdown(found).encode(), "leaderboard.csv": csv(found).encode()}
    return html, files


def _part(ranking: Ranking, folder: Path) -> View:
    rows = [
        {
            "rank": str(rank or "–"),
            "name": entry.defense,
            "origin": origin(entry),
            "worst": [_cell(entry.worst[eps], entry) for eps in ranking.eps],
            "mean": ("" if entry.believed else "≤ ") + number(entry.mean(ranking.eps)),
            "clean": _cell(entry.clean, None),
            "verdict": verdict_words(entry.verdict),
            "class": entry.verdict.replace(" ", "-"),
            "attacks": ", ".join(entry.attacks),
            "n": entry.n,
            "seeds": _seeds(entry),
            "date": entry.date or "–",
            "run": entry.run.run_id,
            "report": _report(entry, folder),
        }
        for entry, rank in zip(ranking.entries, ranking.ranks, strict=True)
    ]
    title = f"{ranking.dataset}, {NORM_WORDS.get(ranking.norm, ranking.norm)}"
    return {"title": title, "eps": [f"{eps:g}" for eps in ranking.eps], "rows": rows,
            "n": ranking.entries[0].n}  # fmt: skip


def _cell(share: Share, entry: Entry | None) -> View:
    """Return what a share reads as; "at most" where the audit does not believe the entry."""
    several = share.seed_low < share.seed_high
    return {
        "value": ("≤ " if entry and not entry.believed else "") + number(share.value),
        "interval": f"[{number(share.low)}, {number(share.high)}]",
        "spread": f"{number(share.seed_low)}–{number(share.seed_high)}" if several else "",
    }


def origin(entry: Entry) -> str:
    """Return whether the harness trained the model, and with which preset, or was handed it."""
    spec = entry.run.spec
    return f"preset {spec.preset}" if spec.trains else "handed over"


def _seeds(entry: Entry) -> str:
    """Return the number of seeds; of how many, while some have no result."""
    asked = len(entry.run.spec.seeds)
    return f"{entry.seeds} of {asked}" if entry.seeds < asked else str(entry.seeds)


def verdict_words(verdict: str) -> str:
    """Return a verdict with its mark."""
    return f"{MARKS.get(verdict, DOUBT)} {verdict}"


def _report(entry: Entry, folder: Path) -> str:
    """Return the address of the run's own report, as seen from ``folder``; empty without one."""
    page = entry.run.path / "report" / "report.html"
    if not page.is_file():
        return ""
    return quote(os.fsencode(Path(os.path.relpath(real(page), real(folder))).as_posix()))


# --- files -------------------------------------------------------------------------------------


def markdown(found: Standings) -> str:
    """Return the rankings as Markdown, a table each."""
    parts = []
    for ranking in found.rankings:
        view = _part(ranking, Path())
        several = len(ranking.eps) > 1
        header = ["rank", "model", *(f"worst case at eps {eps}" for eps in view["eps"])]
        header += [*(["mean"] if several else []), "clean", "verdict", "n", "seeds", "attacks"]
        header += ["date", "run"]
        rows = [
            [
                *(row["rank"], f"{row['name']} ({row['origin']})"),
                *(f"{cell['value']} {cell['interval']}" for cell in row["worst"]),
                *([row["mean"]] if several else []),
                f"{row['clean']['value']} {row['clean']['interval']}",
                *(row["verdict"], str(row["n"]), row["seeds"], row["attacks"]),
                *(row["date"], row["run"]),
            ]
            for row in view["rows"]
        ]
        parts.append(f"## {markdown_escape(view['title'])}\n\n{markdown_table(header, rows)}")
    if found.left_out:
        told = [
            f"- {markdown_escape(f'{run}, {name}: {why}')}" for run, name, why in found.left_out
        ]
        parts.append("## Left out\n\n" + "\n".join(told) + "\n")
    return "\n".join(parts)


def csv(found: Standings) -> str:
    """Return the rankings as one table of numbers, a row per model and eps."""
    header = ["ranking", "rank", "model", "origin", "dataset", "norm", "eps", "worst_case"]
    header += ["ci_low", "ci_high", "seed_low", "seed_high", "clean_accuracy", "clean_low"]
    header += ["clean_high", "verdict", "n", "seeds", "attacks", "started", "run_id"]
    rows: list[list[str]] = []
    for i, ranking in enumerate(found.rankings, 1):
        for entry, rank in zip(ranking.entries, ranking.ranks, strict=True):
            clean, end = entry.clean, _tail(entry)
            for eps in ranking.eps:
                at = entry.worst[eps]
                numbers = [eps, at.value, at.low, at.high, at.seed_low, at.seed_high]
                numbers += [clean.value, clean.low, clean.high]
                key = [str(i), str(rank or ""), entry.defense, origin(entry), ranking.dataset]
                rows.append([*key, ranking.norm, *(f"{value:.6g}" for value in numbers), *end])
    return csv_text([header, *rows])


def _tail(entry: Entry) -> list[str]:
    started: Mapping[str, object] = entry.run.provenance
    words = [entry.verdict, str(entry.n), str(entry.seeds), ", ".join(entry.attacks)]
    return [*words, str(started.get("started", "")), entry.run.run_id]
