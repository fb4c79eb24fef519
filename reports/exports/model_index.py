"""A run as the ``model-index`` of a Hugging Face model card.

The keys are those of https://github.com/huggingface/hub-docs/blob/main/modelcard.md.
"""

import math
from collections.abc import Mapping
from typing import Any

from benchmark.results.run import Run
from reports.exports.yaml_text import to_yaml
from reports.pages.standings import Entry, entries_of
from reports.section import slug
from reports.tables import grid

DIGITS = 6  # one image of a million
EPS_DIGITS = 9  # 8/255 is found again

SEVERAL = "# {} models; a model card takes one: export --out FOLDER writes a file for each\n"

Metric = dict[str, Any]


def model_index_yaml(run: Run) -> str:
    """Return the YAML that goes between the ``---`` lines above a model card's text.

    A card is of one model; where the run has several, a comment says so.
    """
    found = model_index(run)
    several = len(found["model-index"])
    return (SEVERAL.format(several) if several > 1 else "") + to_yaml(found)


def model_index_files(run: Run) -> dict[str, str]:
    """Return the YAML of each defense's own card, by a file's name.

    huggingface_hub takes all that a card's model-index holds for results of its last model.
    """
    found: dict[str, str] = {}
    for model in model_index(run)["model-index"]:
        path = f"{slug(model['name']) or 'model'}.yaml"
        while path in found:  # two names may become the same file's
            path = f"{path.removesuffix('.yaml')}-2.yaml"
        found[path] = to_yaml({"model-index": [model]})
    return found


def model_index(run: Run) -> dict[str, Any]:
    """Return an entry per defense that has a result: its accuracies, fractions in [0, 1].

    Metrics are the clean accuracy, the robust accuracy under each attack at each eps above 0, and
    the worst case over all attacks, each with its Wilson 95 % interval, images and seeds in
    ``args``, and the audit's verdict where it speaks of the number.
    """
    pooled = grid.pool(grid.grid(run), run.samples)
    ok = pooled[pooled["status"] == "ok"]
    entries = {(entry.defense, entry.norm): entry for entry in entries_of(run)}
    models = []
    for defense in [d.name for d in run.spec.defenses if d.name in set(ok["defense"])]:
        rows = ok[ok["defense"] == defense].to_dict("records")
        own = [entry for (name, _), entry in entries.items() if name == defense]
        metrics = [_clean(max(rows, key=lambda row: row["images"]))]
        metrics += [_robust(row, entries) for row in rows if row["eps"] > 0]
        metrics += [_worst(entry, eps) for entry in own for eps in sorted(entry.worst)]
        result = {
            "task": {"type": "image-classification", "name": "Image Classification"},
            "dataset": {"type": run.spec.dataset, "name": run.spec.dataset, "split": "test"},
            "metrics": metrics,
        }
        models.append({"name": defense, "results": [result]})
    return {"model-index": models}


def _clean(row: Mapping[Any, Any]) -> Metric:
    args = {"ci_low": row["clean_low"], "ci_high": row["clean_high"]}
    args |= _counts(row)
    return _metric("accuracy", "Clean accuracy", row["clean_accuracy"], args)


def _robust(row: Mapping[Any, Any], entries: Mapping[tuple[str, str], Entry]) -> Metric:
    args = {name: row[name] for name in ("attack", "library", "norm", "eps", "ci_low", "ci_high")}
    args |= _counts(row)
    entry = entries.get((row["defense"], row["norm"]))
    args["verdict"] = entry.verdict if entry else "not audited"
    name = f"Robust accuracy ({row['attack']}, {row['library']}, {row['norm']} {row['eps']:.4g})"
    return _metric("robust_accuracy", name, row["robust_accuracy"], args)


def _worst(entry: Entry, eps: float) -> Metric:
    share = entry.worst[eps]
    args = {"attack": "worst case", "attacks": list(entry.attacks), "norm": entry.norm, "eps": eps}
    args |= {"ci_low": share.low, "ci_high": share.high, "n_images": share.n, "seeds": entry.seeds}
    name = f"Robust accuracy (worst case, {entry.norm} {eps:.4g})"
    return _metric("robust_accuracy", name, share.value, {**args, "verdict": entry.verdict})


def _counts(row: Mapping[Any, Any]) -> dict[str, int]:
    # Where some cells have no result, a join has made floats of them.
    return {"n_images": int(row["images"]), "seeds": int(row["seeds_ok"])}


def _metric(kind: str, name: str, value: float, args: Mapping[str, Any]) -> Metric:
    plain = {
        key: _plain(item, EPS_DIGITS if key == "eps" else DIGITS) for key, item in args.items()
    }
    return {"type": kind, "value": _plain(value, DIGITS), "name": name, "args": plain}


def _plain(value: Any, digits: int) -> Any:
    """Return a number of pandas as Python's; a float with so many digits after the point."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, digits)
    return value
