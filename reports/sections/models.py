"""The trained models of a run: what their logs end with, and what they measure on themselves.

A third party's defense may log and measure anything, under any name: nothing here fails on it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmark.results.model_records import ModelRecord
from benchmark.results.run import Run
from reports.analysis.options import mapping
from reports.section import RunContext, Section, View
from reports.tables.grid import is_number, number

Log = list[dict[str, float]]


INTERVAL = ("value", "ci_low", "ci_high", "n")
"""The keys of a measurement with its interval; ``floor`` is the least that can be expected."""


LISTED = 12
"""At most this many values of a list are shown."""


def make(context: RunContext) -> Section:
    """Return the section; a run without a trained model has one that says so."""
    models = ordered(context.run)
    view = {"models": model_rows(models), "measured": measured(models)}
    return Section("models", "Trained models", "sections/models.html.j2", view)


def ordered(run: Run) -> list[ModelRecord]:
    """Return the run's models in the order of its defenses, then by seed."""
    order = {defense.name: i for i, defense in enumerate(run.spec.defenses)}
    return sorted(run.models, key=lambda m: (order.get(m.defense, len(order)), m.defense, m.seed))


def own_epochs(log: Log) -> Log:
    """Return the rows of the defense's own epochs, which count from 1.

    A log may also hold those of a phase before: up to 0 for a pretraining, ``gan_epoch`` for a GAN.
    """
    return [row for row in log if is_number(row.get("epoch")) and row["epoch"] > 0]


def model_rows(models: Sequence[ModelRecord]) -> list[View]:
    """Return a row per model, each with the notes that its defense has not shown before."""
    seen: set[tuple[str, str]] = set()
    rows = []
    for model in models:
        own = [note for note in _notes(model) if (model.defense, note) not in seen]
        seen |= {(model.defense, note) for note in own}
        rows.append(_model(model) | {"notes": own})
    return rows


def _model(model: ModelRecord) -> View:
    epochs = own_epochs(model.log)
    before = sum(is_number(row.get("epoch")) and row["epoch"] <= 0 for row in model.log)
    gan = sum(is_number(row.get("gan_epoch")) for row in model.log)
    phases = [f"+ {n} {name}" for n, name in ((before, "pretraining"), (gan, "GAN")) if n]

    def last(key: str) -> str:
        known = [row[key] for row in epochs if is_number(row.get(key))]
        return number(known[-1] if known else None)

    return {
        "defense": model.defense,
        "seed": model.seed,
        "parameters": f"{model.n_parameters:,}",
        "seconds": number(model.train_seconds, 1),
        "epochs": len(epochs),
        "phases": phases,
        "loss": last("loss"),
        "clean": last("clean_accuracy"),
        "adversarial": last("adversarial_accuracy"),
    }


def notes(models: Iterable[ModelRecord]) -> list[tuple[str, str]]:
    """Return every (defense, note) of ``measures["notes"]`` once, in the models' order."""
    return list(dict.fromkeys((m.defense, note) for m in models for note in _notes(m)))


def _notes(model: ModelRecord) -> list[str]:
    found = mapping(model.measures).get("notes")
    found = [found] if isinstance(found, str) else found
    return [str(note) for note in found] if isinstance(found, list | tuple) else []


def measured(models: Iterable[ModelRecord]) -> list[View]:
    """Return a row per model and measure, the notes apart."""
    rows = []
    for model in models:
        for name, value in _flat(mapping(model.measures)):
            row = {"defense": model.defense, "seed": model.seed, "what": name}
            rows.append(row | _measure(value))
    return rows


def _flat(measures: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name in words, value), mappings without a ``value`` taken apart."""
    for key, value in measures.items():
        if key == "notes" and not within and isinstance(value, str | list | tuple):
            continue
        name = f"{within}{_name(key)}"
        if isinstance(value, Mapping) and "value" not in value:
            yield from _flat(value, f"{name}: ")
        else:
            yield name, value


def _measure(value: Any) -> View:
    found = value if isinstance(value, Mapping) else {"value": value}
    value = found["value"]
    low, high = found.get("ci_low"), found.get("ci_high")
    known = is_number(low) and is_number(high)
    others = [
        _floor(value, other) if key == "floor" else f"{_name(key)} {words(other)}"
        for key, other in found.items()
        if key not in INTERVAL
    ]
    return {
        "value": words(value),
        "interval": f"[{words(low, like=value)}, {words(high, like=value)}]" if known else "–",
        "n": words(found.get("n")),
        "others": ", ".join(others) or "–",
    }


def _name(key: Any) -> str:
    return str(key).replace("_", " ")


def _floor(value: Any, floor: Any) -> str:
    comparable = is_number(value) and is_number(floor) and floor > 0
    times = f", value / floor {value / floor:.1f}" if comparable else ""
    return f"floor {words(floor, like=value)}{times}"


def words(value: Any, like: Any = None) -> str:
    """Return a measured value as it is read, a dash for none.

    A float has at least three significant digits, or as many decimals as ``like`` has.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        more = f", … ({len(value)} values)" if len(value) > LISTED else ""
        return ", ".join(map(words, value[:LISTED])) + more
    if not is_number(value):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    scale = like if is_number(like) and like else value
    exponent = math.floor(math.log10(abs(scale))) if scale else 0
    if not -6 <= exponent <= 9:
        return f"{value:.3g}"
    return f"{value:,.{3 if exponent in (-1, 0) else max(0, 2 - exponent)}f}"
