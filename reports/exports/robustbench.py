"""A run in the fields of RobustBench's ``model_info`` files, one object per model and norm.

RobustBench keeps them as ``<dataset>/<Linf or L2>/<name>.json``
(https://github.com/RobustBench/robustbench/tree/master/model_info). Accuracies are texts in per
cent, eps is one as in ``8/255``.
"""

import json
import math
import re
from typing import Any

from benchmark.config.eps import GREY
from benchmark.config.threat import eps_key, same_eps
from benchmark.errors import UsageError
from benchmark.results.run import Run
from reports.pages.standings import Entry, Share, entries_of
from reports.section import slug
from reports.tables import grid

THREATS = {"linf": "Linf", "l2": "L2"}
CUSTOMARY = {"linf": 8 / GREY, "l2": 0.5}
"""The eps of RobustBench's leaderboards on small colour images."""

OWN = "defensebench"
"""The field of what is not RobustBench's; the 95 % interval is Wilson's, over the images."""

Fields = dict[str, Any]


def robustbench_files(run: Run, eps: float | None = None) -> dict[str, Fields]:
    """Return the fields by the file's name, for every defense and norm that has a result.

    Without ``eps`` it is RobustBench's own, 8/255 or 0.5, where the run has it, else the largest
    of the run. ``reported`` is the worst case over the run's attacks, ``autoattack_acc`` is filled
    where an attack of that name ran at the eps; what a run cannot know is None. UsageError where
    nothing was attacked at ``eps``.
    """
    found = {}
    for entry in entries_of(run):
        at = _chosen(entry, eps)
        if at is not None:
            threat = THREATS.get(entry.norm, entry.norm)
            name = slug(entry.defense) or "model"
            path = f"{slug(run.spec.dataset) or 'dataset'}/{threat}/{name}.json"
            # Two names may become the same file's.
            while path in found:
                path = f"{path.removesuffix('.json')}-2.json"
            found[path] = _fields(run, entry, at)
    if not found:
        where = "an eps above 0" if eps is None else f"eps {eps:g}"
        raise UsageError(f"{run.run_id}: no attack at {where} has finished; nothing to export")
    return found


def _chosen(entry: Entry, eps: float | None) -> float | None:
    wanted = CUSTOMARY.get(entry.norm, math.nan) if eps is None else eps
    there = [own for own in entry.worst if same_eps(own, wanted)]
    if there:
        return there[0]
    return max(entry.worst) if eps is None else None


def _fields(run: Run, entry: Entry, eps: float) -> Fields:
    share = entry.worst[eps]
    footnote = (
        f"Measured by defensebench (run {run.run_id}) on {share.n} images, {entry.seeds} seed(s);"
        f" 95% interval {_percent(share.low)} to {_percent(share.high)} under"
        f" {', '.join(entry.attacks)}; verdict: {entry.verdict}."
    )
    return {
        "link": None,
        "name": entry.defense,
        "authors": None,
        "additional_data": None,
        "number_forward_passes": None,
        "dataset": run.spec.dataset,
        "venue": None,
        "architecture": None,
        "eps": fraction(eps),
        "clean_acc": _percent(entry.clean.value),
        "reported": _percent(share.value),
        "autoattack_acc": _autoattack(run, entry, eps),
        "footnote": footnote,
        "unreliable": _unreliable(entry),
        OWN: _own(run, entry, share),
    }


def _own(run: Run, entry: Entry, share: Share) -> Fields:
    """Return what RobustBench has no field for."""
    return {
        "run_id": run.run_id,
        "date": entry.date or None,
        "norm": entry.norm,
        "attacks": list(entry.attacks),
        "n_images": share.n,
        "seeds": entry.seeds,
        "reported_low": _percent(share.low),
        "reported_high": _percent(share.high),
        "verdict": entry.verdict,
    }


def _unreliable(entry: Entry) -> bool | None:
    """Return whether the number is not to be believed; None where nobody could tell."""
    return False if entry.verdict == "attacked fairly" else True if not entry.believed else None


def _autoattack(run: Run, entry: Entry, eps: float) -> str | None:
    """Return the accuracy under an attack called AutoAttack; of several, the lowest."""
    pooled = grid.pool(grid.grid(run), run.samples)
    own = pooled[
        (pooled["status"] == "ok")
        & (pooled["defense"] == entry.defense)
        & (pooled["norm"] == entry.norm)
        & (pooled["eps"].map(eps_key) == eps_key(eps))
        & pooled["attack"].map(is_autoattack)
    ]
    return None if own.empty else _percent(float(own["robust_accuracy"].min()))


def is_autoattack(attack: str) -> bool:
    """Tell whether an attack is AutoAttack, however its settings were named."""
    return (
        re.sub(r"[^a-z]", "", attack.partition("(")[0].rpartition(":")[2].lower()) == "autoattack"
    )


def fraction(eps: float) -> str:
    """Return ``8/255`` where that is exact and shorter than the decimal number, else the number."""
    whole, plain = round(eps * GREY), f"{eps:g}"
    exact = whole > 0 and math.isclose(eps * GREY, whole, rel_tol=1e-6)
    return min(plain, f"{whole}/{GREY}", key=len) if exact else plain


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def robustbench_json(files: dict[str, Fields]) -> str:
    """Return one model's fields as they are, those of several by the names of their files."""
    shown = next(iter(files.values())) if len(files) == 1 else files
    return json.dumps(shown, indent=2, ensure_ascii=False) + "\n"
