"""The rules of a defense."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.attacks.losses import cross_entropy, margin
from benchmark.attacks.view import attack_view, clamps_input
from benchmark.datasets.info import DatasetInfo
from benchmark.models.contract import kind
from benchmark.models.defense import Defense, TrainingLog
from benchmark.models.memory_layout import CONTIGUOUS
from benchmark.seeding import seeded
from benchmark.testing.checks import Check, Inspection, NotApplicable
from benchmark.testing.common import changed_tensors, report, snapshot
from benchmark.testing.defense_case import DefenseCase
from benchmark.training.model_cache import Checkpoints


def check_defense(cls: type[Defense], info: DatasetInfo | None = None, **options: Any) -> list[str]:
    """Train ``cls(info, **options)`` briefly and check every rule of a defense.

    ``info`` describes the images, by default :data:`GREY` (28x28); a defense for colour images
    passes :data:`COLOUR`. Where the class takes ``training`` or ``width`` and ``options`` has
    none, short and narrow ones are used. Returns the findings; AssertionError names a broken rule.
    """
    return report(inspect_defense(cls, info, **options).findings())


def inspect_defense(
    cls: type[Defense], info: DatasetInfo | None = None, **options: Any
) -> Inspection[DefenseCase]:
    """Return the checks of a defense one by one; see :func:`check_defense`."""
    return Inspection(DefenseCase(cls, info, **options), CHECKS)


def _fit(case: DefenseCase) -> Iterable[str]:
    must, fitted = case.must, case.fitted
    for name in fitted.moved:
        must(
            False,
            f"fit changed the global random state of {name}; pass a torch.Generator,"
            " or work inside benchmark.seeding.seeded",
        )
    must(
        isinstance(fitted.log, TrainingLog),
        f"fit must return a TrainingLog, got {kind(fitted.log)}",
    )
    must(not fitted.images_changed, "fit changed the training images")
    for name, tensor in fitted.defense.state_dict().items():
        must(isinstance(tensor, Tensor), f"the state dict's {name} is not a tensor")
        finite = not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
        must(finite, f"after fit, {name} is not finite")
    must(
        not fitted.frozen,
        f"fit must leave requires_grad as it was; changed: {fitted.frozen}",
    )
    return ()


def _seed(case: DefenseCase) -> Iterable[str]:
    first, twin = case.fitted.defense.state_dict(), case.build(1)
    # The second run starts from another global state: only `seed` may decide.
    with seeded(17):
        case.fit(twin, case.data)
    again = twin.state_dict()
    for name, tensor in first.items():
        case.must(
            torch.allclose(tensor.double(), again[name].double(), rtol=1e-3, atol=1e-5),
            f"fit must depend on its seed alone; {name} differs between two trainings",
        )
    return ()


def _forward(case: DefenseCase) -> Iterable[str]:
    must, defense, x = case.must, case.defense, case.x
    before, kept = x.clone(), snapshot(defense)
    with torch.no_grad(), seeded(5, "cpu", defense):
        logits: Tensor = defense(x)
    must(torch.equal(x, before), "forward must not modify its input")
    _scores(logits, len(x), case, "forward")
    must(not any(m.training for m in defense.modules()), "forward must stay in evaluation mode")
    changed = changed_tensors(defense, kept)
    must(not changed, f"forward in evaluation mode must not change {changed}")
    with torch.no_grad(), seeded(6, "cpu", defense):
        alone = defense(x[2:3])
    _scores(alone, 1, case, "forward of one image")
    return ()


def _scores(logits: Any, n: int, case: DefenseCase, source: str) -> None:
    must, n_classes = case.must, case.info.n_classes
    must(
        isinstance(logits, Tensor) and logits.shape == (n, n_classes),
        f"{source} must return logits of shape {(n, n_classes)}, got {kind(logits)}",
    )
    must(logits.dtype == torch.float32, f"{source} must return float32, got {logits.dtype}")
    must(
        torch.isfinite(logits).all(),
        f"{source} returned a logit that is not finite (for images in [0, 1])",
    )


def _repeats(case: DefenseCase) -> Iterable[str]:
    must, defense, x = case.must, case.defense, case.x
    logits = case.logits()
    with torch.no_grad(), seeded(6, "cpu", defense):
        again, alone = defense(x), defense(x[2:3])
    same = torch.equal(logits, case.logits())
    must(
        same or not defense.stochastic,
        "forward must draw its noise from torch's global generator, which the harness seeds, or"
        " from one that it keeps as an attribute",
    )
    if not defense.stochastic:
        must(
            same and torch.equal(logits, again),
            "forward differs between two passes on the same images; set stochastic = True",
        )
        must(
            torch.allclose(alone, logits[2:3], rtol=1e-3, atol=1e-4),
            "an image's logits depend on the other images of its batch",
        )
    return ()


def _predict(case: DefenseCase) -> Iterable[str]:
    must, defense, x, n_classes = case.must, case.defense, case.x, case.info.n_classes
    before = x.clone()
    for images in (x, x[:1]):
        with seeded(7):
            labels = defense.predict(images)
        must(
            isinstance(labels, Tensor) and labels.shape == (len(images),),
            f"predict must return labels of shape ({len(images)},), got {kind(labels)}",
        )
        must(labels.dtype == torch.int64, f"predict must return int64, got {labels.dtype}")
        must(
            ((labels >= 0) & (labels < n_classes)).all(),
            f"predict must return labels from 0 to {n_classes - 1}",
        )
    must(torch.equal(x, before), "predict must not modify its input")
    if not defense.stochastic:
        with seeded(8):
            first = defense.predict(x)
        with seeded(9):
            second = defense.predict(x)
        must(
            torch.equal(first, second),
            "predict differs between two calls on the same images; set stochastic = True",
        )
    return ()


def _surrogate(case: DefenseCase) -> Iterable[str]:
    must, probe = case.must, case.x[2:].requires_grad_()
    with seeded(10):
        logits = case.defense.surrogate(probe)
    _scores(logits, len(probe), case, "surrogate")
    must(logits.requires_grad, "surrogate must be differentiable; override it if forward is not")
    loss = cross_entropy(logits, case.y[2:]).sum()
    (gradient,) = torch.autograd.grad(loss, probe, allow_unused=True)
    must(gradient is not None, "surrogate must be differentiable with respect to the images")
    must(torch.isfinite(gradient).all(), "surrogate has a gradient that is not finite")
    must(
        gradient.any(),
        "surrogate has a gradient of zero everywhere: attacks would be blind; override it",
    )
    return ()


def _passes_gradient(case: DefenseCase) -> bool:
    """Tell whether forward itself, without its surrogate, has a gradient to follow."""
    probe = case.x[2:].requires_grad_()
    with seeded(10):
        logits = case.defense(probe)
    if not logits.requires_grad:
        return False
    loss = cross_entropy(logits, case.y[2:]).sum()
    (gradient,) = torch.autograd.grad(loss, probe, allow_unused=True)
    return gradient is not None and bool(gradient.any())


def _embed(case: DefenseCase) -> Iterable[str]:
    must, x = case.must, case.x
    with torch.no_grad(), seeded(11):
        z = case.defense.embed(x)
    if z is None:
        raise NotApplicable(f"{case.cls.__name__} has no embeddings")
    must(
        isinstance(z, Tensor) and z.dim() == 2 and len(z) == len(x),
        f"embed must return None or embeddings of shape ({len(x)}, k), got {kind(z)}",
    )
    must(
        z.is_floating_point() and bool(torch.isfinite(z).all()),
        "embed returned embeddings that are not finite numbers",
    )
    return ()


def _state_dict(case: DefenseCase) -> Iterable[str]:
    """A cached model must be complete: what fit learned has to be in the state dict."""
    must, defense, fresh = case.must, case.defense, case.build(2)
    with tempfile.TemporaryDirectory() as folder:
        cache = Checkpoints(Path(folder))
        try:
            cache.save("conformance", defense, TrainingLog())
            fresh.load_state_dict(defense.state_dict())
        except (RuntimeError, ValueError, TypeError) as error:
            raise AssertionError(must.named(f"its state dict cannot be kept: {error}")) from error
        must(
            cache.load("conformance", fresh) is not None,
            "its state dict cannot be loaded into a new instance",
        )
    fresh.eval()
    with torch.no_grad(), seeded(5, "cpu", fresh):
        restored = fresh(case.x)
    # The same seed, so that a stochastic defense draws the same noise.
    must(
        torch.allclose(restored, case.logits(), rtol=1e-4, atol=1e-5),
        "a new instance with the same state dict gives other logits: what fit learns must be"
        " parameters or buffers",
    )
    return ()


def _memory_layout(case: DefenseCase) -> Iterable[str]:
    return [case.must.named(CONTIGUOUS)] if case.layout == torch.contiguous_format else []


def _clamping(case: DefenseCase) -> Iterable[str]:
    x, bpda = case.x, not _passes_gradient(case)
    with seeded(12), attack_view(case.defense, len(x), bpda=bpda) as view:
        clamps = clamps_input(view, x, case.y, margin)
    said = (
        "forward clamps its input, which hides the gradient of every black and white pixel;"
        " the harness attacks it just inside the box"
    )
    return [case.must.named(said)] if clamps else []


def _gradient(case: DefenseCase) -> Iterable[str]:
    said = (
        "forward has no gradient of its own: say so with differentiable = False, and attacks"
        " take the surrogate's"
    )
    hidden = case.defense.differentiable and not _passes_gradient(case)
    return [case.must.named(said)] if hidden else []


CHECKS = (
    Check("fit", _fit),
    Check("fit-follows-its-seed", _seed, ("fit",)),
    Check("forward", _forward, ("fit",)),
    Check("forward-repeats", _repeats, ("forward",)),
    Check("predict", _predict, ("fit",)),
    Check("surrogate", _surrogate, ("fit",)),
    Check("embed", _embed, ("fit",)),
    Check("state-dict", _state_dict, ("forward",)),
    Check("memory-layout", _memory_layout, ("fit",)),
    Check("input-clamping", _clamping, ("surrogate",)),
    Check("gradient", _gradient, ("surrogate",)),
)
