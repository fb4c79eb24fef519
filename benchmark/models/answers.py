"""What a trained model answers to a few images, to tell whether a cached copy is the same model.

The cache holds a model's ``state_dict``. What ``fit`` keeps anywhere else (a plain attribute, a
class, a module) is not in it, and a copy without it gives other numbers, or none.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmark.datasets.dataset import ImageDataset
from benchmark.errors import first_line
from benchmark.hashing import derive_seed
from benchmark.models.defense import Defense
from benchmark.models.memory_layout import in_layout
from benchmark.models.model_copy import Kept
from benchmark.plugins.process_settings import contained
from benchmark.seeding import seeded

FEW = 4
"""Training images that are asked about."""

MOST_VALUES = 256
"""Values of each image's answer that are compared, at most."""

METHODS = ("forward", "predict", "surrogate", "embed")

FLAGS = ("stochastic", "differentiable", "exact_surrogate", "latent_dim")
"""What else the harness reads of a model."""

CLOSE = 1e-3
"""The tolerance, relative to an image's largest value (docs/constants.md)."""

NEAR = 3e-2
"""The same between two processors."""

Answers = dict[str, Any]
"""By method: a row of numbers for each image, or the words of what it raised; and the flags."""


def answers(
    defense: Defense, data: ImageDataset, seed: int, say: Callable[[str], None] = lambda _: None
) -> Answers:
    """Return what ``defense``, in evaluation mode, says of the first images of ``data``.

    Asked are forward and whichever of :data:`METHODS` it defines itself, under one seed. What they
    do to the model or the process is undone; but a model that fails in its memory layout gets
    another one, and ``say`` a line on it.
    """
    x = data.head(min(FEW, len(data))).x()
    found: Answers = {"flags": {name: getattr(defense, name, None) for name in FLAGS}}
    for name in METHODS:
        if name != "forward" and getattr(type(defense), name) is getattr(Defense, name):
            continue
        kept = Kept.of(defense)
        try:
            drawn = seeded(derive_seed(seed, "answers"), data.device, defense)
            with contained(), torch.no_grad(), drawn:
                ask = partial(getattr(defense, name), x.clone())
                said: Any = in_layout(defense, data.device, ask, say)
            if said is None:
                continue
            if not isinstance(said, Tensor) or said.dim() == 0 or len(said) != len(x):
                raise TypeError(f"{name} returned no tensor of {len(x)} rows")
            found[name] = said.detach().double().cpu().flatten(1 if said.dim() > 1 else 0)
            if said.dim() == 1:
                found[name] = found[name][:, None]
            found[name] = found[name][:, :MOST_VALUES].tolist()
        except Exception as error:  # the run's own check of its answers names what is wrong
            found[name] = first_line(error)
        finally:
            kept.restore()
    return found


def settled(one: Answers, again: Answers) -> Answers:
    """Return those of a model's answers that it gave twice under the same seed.

    The others tell nothing about a copy: they come from a generator of the model's own, or are an
    exception.
    """
    return {
        name: value
        for name, value in one.items()
        if name == "flags" or not (isinstance(value, str) or _unlike(one, again, name, CLOSE))
    }


def difference(before: Mapping[str, Any], now: Answers, *, near: bool = False) -> str:
    """Say in a few words how ``now`` differs from the answers ``before``; "" if it does not.

    ``near`` allows what another processor may round otherwise.
    """
    tolerance = NEAR if near else CLOSE
    for name in before:
        if name == "flags":
            if words := _other_flags(before[name], now.get(name)):
                return words
            continue
        if isinstance(now.get(name), str):
            return f"{name}: {now[name]}"
        if words := _unlike(before, now, name, tolerance):
            return f"{name} {words}"
    return ""


def _other_flags(before: Any, now: Any) -> str:
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return ""
    others = [name for name in FLAGS if name in before and before[name] != now.get(name)]
    return ", ".join(f"{name} is {now.get(name)}, not {before[name]}" for name in others)


def _unlike(before: Mapping[str, Any], now: Mapping[str, Any], name: str, tolerance: float) -> str:
    try:
        one, other = (_numbers(each[name]) for each in (before, now))
    except (KeyError, TypeError, ValueError):
        return "gives no such answer"
    if one.shape != other.shape or one.dim() != 2:
        return f"gives {tuple(other.shape)} values, not {tuple(one.shape)}"
    same = (one == other) | (one.isnan() & other.isnan())
    if name == "predict":
        # Two classes that tie are told apart by rounding.
        wrong = ~same.all(1) & ~_tied(before, len(one), tolerance)
        return f"differs on {int(wrong.sum())} of {len(one)} images" if wrong.any() else ""
    scale = one.nan_to_num(0, 0, 0).abs().amax(1, keepdim=True).clamp_min(1e-6)
    off = ((one - other).abs() / scale).where(~same, torch.zeros(()).double())
    if (off.nan_to_num(torch.inf) <= tolerance).all():
        return ""
    rows = (off.nan_to_num(torch.inf) > tolerance).any(1)
    return f"differs on {int(rows.sum())} of {len(one)} images"


def _tied(before: Mapping[str, Any], n: int, tolerance: float) -> Tensor:
    try:
        logits = _numbers(before["forward"])
        first, second = logits.topk(2, 1).values.unbind(1)
    except (KeyError, TypeError, ValueError, RuntimeError):
        return torch.zeros(n, dtype=torch.bool)
    return (first - second) <= 2 * tolerance * logits.abs().amax(1)


def _numbers(rows: Any) -> Tensor:
    """Return rows of numbers as float64; None, a record's NaN, is NaN again."""
    plain = [[float("nan") if value is None else value for value in row] for row in rows]
    return torch.tensor(plain, dtype=torch.float64)
