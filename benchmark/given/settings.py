"""What an evaluation runs where the user leaves it open: budgets and attacks."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from benchmark.config.attack_syntax import split_words
from benchmark.config.eps import parse_budget
from benchmark.config.presets import merge
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import NORMS
from benchmark.errors import UsageError, unknown_name
from benchmark.execution.known_settings import checked, settings_for
from benchmark.execution.plan import attack_specs
from benchmark.models.defense import Gives

PRESET = "evaluate"
"""What stands in the results where a run has the name of its preset."""

SETTINGS = "quick"
"""The preset whose attack settings an evaluation takes; the number of images is the user's."""

STANDARD = "standard"

HOP_SKIP_JUMP = {
    "linf": "art:HopSkipJump(norm='linf', max_iter=20, max_eval=1000, init_eval=10)",
    "l2": "art:HopSkipJump(max_iter=20, max_eval=1000, init_eval=10)",
}

ENSEMBLES = {"linf": "standard", "l2": "standard-l2", "l1": "standard-l1", "l0": "standard-l0"}
"""By norm: the ensemble that follows the gradient (:mod:`benchmark.attacks.standard`)."""

SQUARES = {"linf": "square", "l2": "square-l2"}
"""By norm: what asks for scores alone."""

LARGEST: Mapping[tuple[str, str], Fraction] = {
    ("l1", "grey"): Fraction(10),
    ("l1", "small"): Fraction(12),
    ("l1", "large"): Fraction(60),
    ("l0", "grey"): Fraction(24),
    ("l0", "small"): Fraction(24),
    ("l0", "large"): Fraction(48),
    ("linf", "grey"): Fraction(3, 10),
    ("linf", "small"): Fraction(8, 255),
    ("linf", "large"): Fraction(4, 255),
    ("l2", "grey"): Fraction(2),
    ("l2", "small"): Fraction(1, 2),
    ("l2", "large"): Fraction(3),
}
"""The budgets that the field reports, by norm and kind of image: MNIST's, CIFAR10's, ImageNet's
(Madry et al. 2018, https://arxiv.org/abs/1706.06083; Croce et al. 2021, RobustBench,
https://arxiv.org/abs/2010.09670)."""

LARGE = 128
"""From this height or width on an image counts as large."""

PARTS = 4
"""A single budget is searched in so many equal steps from 0: a curve costs hardly more."""


def budgets(eps: Any, norm: str, shape: tuple[int, int, int]) -> tuple[float, ...]:
    """Return the ascending budgets, 0 first, that ``eps`` asks for on images of ``shape``.

    A number, or a word such as 8/255, stands for itself and the quarters below it; a sequence for
    itself; None for what the field reports on images like these. UsageError for anything else.
    """
    if norm not in NORMS:
        raise unknown_name("norm", norm, NORMS)
    if eps is None:
        kind = "grey" if shape[0] == 1 else "large" if max(shape[1:]) >= LARGE else "small"
        eps = float(LARGEST[norm, kind])
    if isinstance(eps, str):
        eps = [word for word in eps.split(",") if word.strip()]
        eps = eps[0] if len(eps) == 1 else eps
    single = isinstance(eps, str) or (not isinstance(eps, Sequence) and not hasattr(eps, "__len__"))
    asked = [_budget(value) for value in ([eps] if single else eps)]
    if single:
        asked = [asked[0] * i / PARTS for i in range(PARTS + 1)]
    return tuple(sorted({0.0, *asked}))


def _budget(value: Any) -> float:
    try:
        return parse_budget(value)
    except (ValueError, TypeError):
        raise UsageError(f"eps: {value!r} is not a number, nor a fraction such as 8/255") from None


def attacks_of(
    asked: str | Sequence[str],
    *,
    norm: str,
    eps: Sequence[float],
    n: int,
    gives: Gives,
    settings: Mapping[str, Any],
) -> tuple[AttackSpec, ...]:
    """Return the attacks that ``asked`` names, each over all ``n`` images.

    ``asked`` is a list, or words separated by commas, as ``run --attacks`` takes them;
    :data:`STANDARD` among them stands for the standard ones in ``norm``. UsageError for an unknown
    one, and for one in another norm.
    """
    words = split_words(asked) if isinstance(asked, str) else list(asked)
    names: list[str] = []
    for word in words or [STANDARD]:
        names += _standard(norm, gives) if word == STANDARD else [word]
    found = attack_specs(settings, list(dict.fromkeys(names)), (), eps, n)
    for attack in found:
        if attack.threat.norm != norm:
            raise UsageError(
                f"attack {attack.name} is one in {attack.threat.norm}, and the evaluation is in"
                f" {norm}: leave it out, or evaluate with norm={attack.threat.norm!r} as well"
            )
    return found


def _standard(norm: str, gives: Gives) -> list[str]:
    """Return the standard attacks: the ensemble, and what can be asked where it has no gradient."""
    found = [ENSEMBLES[norm]]
    if gives == "gradients":
        return found
    answers = (HOP_SKIP_JUMP if gives == "labels" else SQUARES).get(norm)
    if answers is None:
        raise UsageError(
            f"of this model only {gives} can be had, and no attack in {norm} makes do with them:"
            " evaluate in linf or l2"
        )
    return [*found, answers]


def own_settings(
    changes: Mapping[str, Any] | None = None, preset: str = "", dataset: str = ""
) -> dict[str, Any]:
    """Return the attacks' settings of ``preset``, a name or a TOML file, for a dataset.

    Without one they are those of :data:`SETTINGS`, for any number of images. ``changes`` are those
    of ``--set``; UsageError for a key that is no setting of an attack.
    """
    settings = settings_for(preset or SETTINGS, dataset if preset else "")
    if not preset:
        settings["attack_settings"] = {
            name: {key: value for key, value in table.items() if key not in ("n", "libraries")}
            for name, table in settings.get("attack_settings", {}).items()
        }
    for key in changes or {}:
        if key != "attack_settings":
            raise UsageError(
                f"--set {key}: evaluate trains nothing; it takes attack_settings.NAME.SETTING=VALUE"
            )
    return merge(settings, checked(changes or {}, settings, "--set"))
