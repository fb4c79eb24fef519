"""What a check is given, and what it answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmark.models.defense import Defense
from benchmark.results.audit_words import Answer, Role

Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Curve:
    """What one attack of the run left of this defense, per sample; all over the same ``n`` images.

    ``eps`` are the budgets, ascending; ``success`` (len(eps), n) bool and ``distance``
    (len(eps), n) float64 as in samples.parquet, clean errors being successes at distance 0.
    ``new`` (len(eps), n) bool tells which the attack fooled itself, where it was run on what others
    had left and ``success`` holds theirs, too; None where it was run alone.
    """

    attack: str
    library: str
    norm: str
    eps: tuple[float, ...]
    success: Tensor
    distance: Tensor
    new: Tensor | None = None

    @property
    def robust_accuracy(self) -> tuple[float, ...]:
        """The accuracy at each eps, a fraction in [0, 1]."""
        return tuple((1 - self.success.double().mean(1)).tolist())


@dataclass(frozen=True)
class Case:
    """A trained defense under audit, in evaluation mode, with images to ask it about.

    ``x`` (N, C, H, W) float32 in [0, 1] are the first test images and ``y`` (N,) their labels, on
    the defense's device; ``correct`` (N,) tells which it gets right. ``train_images`` (M, C, H, W)
    uint8, or float32 in [0, 1], are all that it is known to be trained on: none of a model that was
    handed over. ``eot`` and ``bpda`` are what the run's attacks used on
    it, ``inside`` how far inside the box they took gradients. ``curves`` are the run's sweeps of
    this defense, empty before any.
    """

    defense: Defense
    dataset: str
    seed: int
    x: Tensor
    y: Tensor
    correct: Tensor
    train_images: Tensor
    eot: int = 1
    bpda: bool = False
    inside: float = 0.0
    curves: Sequence[Curve] = field(default=())
    measured: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, measure: "Callable[[Case], Measured]") -> Measured:
        """Return ``measure(self)``, measured by the first check that asks and kept for the rest."""
        if measure not in self.measured:
            self.measured[measure] = measure(self)
        found: Measured = self.measured[measure]
        return found

    @property
    def attacked(self) -> tuple[Tensor, Tensor]:
        """The images that the defense gets right, and their labels: those that are attacked."""
        return self.x[self.correct], self.y[self.correct]

    @property
    def device(self) -> torch.device:
        """Where the images and the defense are."""
        return self.x.device


@dataclass(frozen=True)
class Finding:
    """A check's answer: a row of audit.parquet.

    ``value`` is what was measured and ``threshold`` where the answer changes (NaN where there is
    none); ``evidence`` says both in one sentence, with n. ``attack`` and ``library`` name the sweep
    that it is about, both empty where it is about the defense itself. ``reason`` is the short words
    for a verdict, such as "no gradient", empty unless it is an alarm or a note. ``role`` is the
    check's, set when the check is run.
    """

    check: str
    answer: Answer
    value: float
    threshold: float
    evidence: str
    reason: str = ""
    attack: str = ""
    details: Mapping[str, float] = field(default_factory=dict)
    library: str = ""
    role: Role = "cause"

    def is_about(self, curve: Curve) -> bool:
        """Tell whether this is about the sweep ``curve``; older findings name no library."""
        return self.attack == curve.attack and self.library in ("", curve.library)


def undecided(check: str, evidence: str, threshold: float = torch.nan) -> Finding:
    """Return that ``check`` could not tell, and why."""
    return Finding(check, "undecided", torch.nan, threshold, evidence)


def alarm_if(
    alarm: bool,
    check: str,
    value: float,
    threshold: float,
    evidence: str,
    reason: str,
    attack: str = "",
    details: Mapping[str, float] = MappingProxyType({}),
    library: str = "",
) -> Finding:
    """Return an alarm with its ``reason``, or that the check is passed."""
    answer: Answer = "alarm" if alarm else "pass"
    reason = reason if alarm else ""
    return Finding(check, answer, value, threshold, evidence, reason, attack, details, library)
