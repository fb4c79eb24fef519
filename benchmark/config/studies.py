"""Studies: one option of a defense over several values, everything else being equal.

A preset holds the studies of a dataset in its section::

    [mnist.studies.embedding-dim]
    defenses = ["ot-cla"]
    option = "code_dim"
    values = [2, 4, 8]
    training = { epochs = 4 }

Every further key refines the preset's setting of that name while the study runs; ``attacks`` is
``["pgd"]`` unless the study names others. Such a study is a run of three defenses,
``ot-cla[code_dim=2]`` to ``ot-cla[code_dim=8]``, all of type ``ot-cla``.

Its members see the same training images, test images and attacks. Each one's model seed derives
from its own name, as every defense's does: another value in the list changes no member's number,
and two members differ by their starting weights and the order of their batches as well as by the
option. One seed therefore does not tell a small effect of the option from chance; several
``--seeds`` do. For the same reason the member with the preset's own value is not the model of the
plain run, but another draw of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmark.config import presets
from benchmark.errors import UsageError, unknown_name

ATTACKS = ("pgd",)


@dataclass(frozen=True)
class Study:
    """A preset's study of one dataset; ``settings`` refine the preset's while it runs."""

    name: str
    defenses: tuple[str, ...]
    option: str
    values: tuple[Any, ...]
    settings: Mapping[str, Any]


def find_study(
    preset: str, dataset: str, name: str, changes: Mapping[str, Any] | None = None
) -> Study:
    """Return a preset's study for a dataset.

    UsageError with the nearest name if the preset has no such study at all, and with the dataset's
    own studies if it has one for others only.
    """
    own = presets.preset_for(preset, dataset, changes).get("studies", {})
    if name in own:
        settings = {"attacks": list(ATTACKS), **own[name]}
        defenses, option, values = (settings.pop(key) for key in ("defenses", "option", "values"))
        return Study(name, tuple(defenses), option, tuple(values), settings)
    known = study_names(preset)
    if name not in known:
        raise unknown_name("study", name, known)
    raise UsageError(
        f"preset {preset} has no study {name!r} of {dataset}; it has:"
        f" {', '.join(sorted(own)) or 'none'}"
    )


def study_names(preset: str) -> set[str]:
    """Return the studies that a preset, or one that it refines, has for any dataset."""
    sections = [
        section
        for _, raw in presets.lineage(preset)
        for section in raw.values()
        if isinstance(section, Mapping)
    ]
    return set().union(*(section.get("studies", {}) for section in sections))


def member_name(defense: str, option: str, value: object) -> str:
    """Return the name of a study's member.

    >>> member_name("ot-cla", "lam", 0.1)
    'ot-cla[lam=0.1]'
    """
    text = f"{value:.12g}" if isinstance(value, float) else str(value)
    return f"{defense}[{option}={text}]"
