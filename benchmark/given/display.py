"""An evaluation on one screen: as text for a terminal, as HTML for a notebook."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from benchmark.config.threat import eps_key

if TYPE_CHECKING:
    from benchmark.given.evaluation import Evaluation

MOST = 6
"""Columns of budgets that fit on a screen."""

WIDTH, HEIGHT, MARGIN = 320, 120, 18
"""Of the curve, in CSS pixels."""

COLOURS = {
    "attacked fairly": "#1a7f37",
    "undecided": "#9a6700",
    "attack too weak": "#bc4c00",
    "gradient masking": "#cf222e",
    "invalid": "#cf222e",
}


def shown_eps(eps: Sequence[float]) -> list[float]:
    """Return up to :data:`MOST` of the budgets: the first, the last, and some between."""
    if len(eps) <= MOST:
        return list(eps)
    places = [round(i * (len(eps) - 1) / (MOST - 1)) for i in range(MOST)]
    return [eps[place] for place in places]


def headline(found: "Evaluation") -> str:
    """Return the result in one sentence."""
    n = f"{found.n} image" + ("s" if found.n != 1 else "")
    if found.worst_case.empty:
        return f"{found.model} on {n}: no attack gave a number"
    last = found.worst_case.iloc[-1]
    return (
        f"{found.model} on {n}: accuracy {found.clean_accuracy:.3f} without an attack,"
        f" {last['robust_accuracy']:.3f} [{last['ci_low']:.3f}, {last['ci_high']:.3f}] at"
        f" {found.norm} eps {last['eps']:.4g} under all attacks"
    )


def as_text(found: "Evaluation") -> str:
    """Return the headline, accuracies by attack and budget, and the verdict, as lines."""
    eps = shown_eps(found.eps)
    rows = [["eps", *(f"{value:.4g}" for value in eps)]]
    for name, own in _rows(found):
        rows.append([name, *(_number(own, value) for value in eps)])
    worst = _by_eps(found.worst_case)
    rows.append(["  95 % interval", *(_interval(worst, value) for value in eps)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(eps) + 1)]
    lines = [headline(found)]
    for name, *values in rows:
        cells = (value.rjust(width) for value, width in zip(values, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *cells]).rstrip())
    lines += [f"{name}: {why}" for name, why in _lost(found)]
    lines.append(f"verdict: {found.verdict}")
    return "\n".join(lines)


def as_html(found: "Evaluation") -> str:
    """Return the same with the curve of the worst case, in one element without scripts."""
    eps = shown_eps(found.eps)
    head = "".join(f'<th scope="col">{value:.4g}</th>' for value in eps)
    worst = _by_eps(found.worst_case)
    body = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
        + "".join(f"<td>{_number(own, value)}</td>" for value in eps)
        + "</tr>"
        for name, own in _rows(found)
    )
    body += '<tr><th scope="row" style="text-align:left;font-weight:normal">95 % interval</th>'
    body += "".join(f"<td><small>{_interval(worst, value)}</small></td>" for value in eps) + "</tr>"
    lost = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in _lost(found))
    colour = COLOURS.get(found.verdict.word, "#57606a")
    word = escape(found.verdict.word or "not audited")
    why = escape(found.verdict.why)
    return (
        '<div style="max-width:60em">'
        f"<p><strong>{escape(headline(found))}</strong></p>{_curve(found)}"
        f'<table><thead><tr><th scope="col" style="text-align:left">{escape(found.norm)} eps</th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table>"
        + (f"<ul>{lost}</ul>" if lost else "")
        + f'<p><span style="background:{colour};color:#fff;border-radius:3px;padding:1px 6px">'
        f"{word}</span> {why}</p></div>"
    )


def _rows(found: "Evaluation") -> Iterator[tuple[str, dict[float, pd.Series]]]:
    """Yield the name of each attack, and of all together, with its cells by eps."""
    table = found.table
    attacks = table[["attack", "library"]].drop_duplicates()
    for attack, library in attacks.itertuples(index=False, name=None):
        own = table[(table["attack"] == attack) & (table["library"] == library)]
        name = attack if library == "inhouse" else f"{attack} ({library})"
        yield name, _by_eps(own)
    yield "worst case", _by_eps(found.worst_case)


def _by_eps(rows: pd.DataFrame) -> dict[float, pd.Series]:
    return {eps_key(float(row["eps"])): row for _, row in rows.iterrows()}


def _number(rows: dict[float, pd.Series], eps: float) -> str:
    row = rows.get(eps_key(eps))
    return "-" if row is None else f"{row['robust_accuracy']:.3f}"


def _interval(rows: dict[float, pd.Series], eps: float) -> str:
    row = rows.get(eps_key(eps))
    return "-" if row is None else f"{row['ci_low']:.2f}-{row['ci_high']:.2f}"


def _lost(found: "Evaluation") -> Iterator[tuple[str, str]]:
    for row in found.skipped.itertuples(index=False):
        yield f"{row.attack} {row.status}", str(row.reason)


def _curve(found: "Evaluation") -> str:
    """Draw the worst case against eps, with its interval as a band."""
    rows = found.worst_case
    if len(rows) < 2:
        return ""
    far = float(rows["eps"].max()) or 1.0
    x = [MARGIN + (WIDTH - 2 * MARGIN) * float(eps) / far for eps in rows["eps"]]

    def path(column: str) -> list[str]:
        tall = HEIGHT - 2 * MARGIN
        y = [MARGIN + tall * (1 - float(value)) for value in rows[column]]
        return [f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)]

    band = " ".join([*path("ci_low"), *reversed(path("ci_high"))])
    bottom, right = HEIGHT - MARGIN, WIDTH - MARGIN
    label = escape(f"accuracy over all attacks against eps, {found.norm}")
    return (
        f'<svg role="img" aria-label="{label}" width="{WIDTH}" height="{HEIGHT}"'
        f' viewBox="0 0 {WIDTH} {HEIGHT}" font-size="10" fill="currentColor">'
        f'<path d="M{MARGIN} {MARGIN}V{bottom}H{right}" fill="none" stroke="currentColor"/>'
        f'<polygon points="{band}" fill="#0969da" opacity="0.2"/>'
        f'<polyline points="{" ".join(path("robust_accuracy"))}" fill="none" stroke="#0969da"'
        ' stroke-width="2"/>'
        f'<text x="2" y="{MARGIN + 4}">1</text><text x="2" y="{bottom}">0</text>'
        f'<text x="{right}" y="{HEIGHT - 4}" text-anchor="end">eps {far:.4g}</text></svg>'
    )
