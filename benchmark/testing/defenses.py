"""The rules of a defense."""

import inspect
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.attacks.losses import cross_entropy, margin
from benchmark.attacks.view import attack_view, clamps_input
from benchmark.datasets.dataset import ImageDataset
from benchmark.datasets.info import DatasetInfo
from benchmark.models.contract import kind
from benchmark.models.defense import Defense, TrainingLog
from benchmark.models.memory_layout import CONTIGUOUS, differentiate, is_layout_error, lay_out
from benchmark.progress import Progress
from benchmark.seeding import seeded
from benchmark.testing.common import (
    GREY,
    SHORT,
    WIDTH,
    N,
    Rules,
    changed_tensors,
    global_random_state,
    report,
    require,
    snapshot,
    tiny_dataset,
)
from benchmark.training.model_cache import Checkpoints


def check_defense(cls: type[Defense], info: DatasetInfo | None = None, **options: Any) -> list[str]:
    """Train ``cls(info, **options)`` briefly and check every rule of a defense.

    ``info`` describes the images, by default :data:`GREY` (28x28); a defense for colour images
    passes :data:`COLOUR`. Where the class takes ``training`` or ``width`` and ``options`` has
    none, short and narrow ones are used. Returns the findings; AssertionError names a broken rule.
    """
    info = info or GREY
    require(
        isinstance(cls, type) and issubclass(cls, Defense),
        f"{cls!r} is not a subclass of benchmark.Defense",
    )
    parameters = inspect.signature(cls).parameters
    for name, value in (("training", SHORT), ("width", WIDTH)):
        if name in parameters:
            options.setdefault(name, value)

    layout = torch.channels_last

    def build(seed: int) -> Defense:
        # As the runner does: under a seed of its own, in channels-last memory.
        with seeded(seed):
            defense = cls(info, **options)
        lay_out(defense, torch.device("cpu"), layout)
        return defense

    must, data = Rules(cls.__name__), tiny_dataset(info)
    defense = build(1)
    if not _bears_layout(build(1), data):
        layout = torch.contiguous_format
        defense = build(1)
    _check_fit(defense, build(1), data, must)
    defense.eval()
    x = data.x(slice(N))
    # Every kind of pixel: black, white, and what lies between.
    x[0], x[1] = 0.0, 1.0
    x[2:].mul_(0.9).add_(0.05)
    logits = _check_logits(defense, x, info.n_classes, must)
    _check_predict(defense, x, info.n_classes, must)
    differentiable = _check_surrogate(defense, x, data.labels[:N], info.n_classes, must)
    _check_embed(defense, x, must)
    _check_checkpoint(defense, build(2), x, logits, must)
    said = [must.named(CONTIGUOUS)] if layout == torch.contiguous_format else []
    findings = _defense_findings(defense, x, data.labels[:N], differentiable, must)
    return report(chain(said, findings))


def _bears_layout(defense: Defense, data: ImageDataset) -> bool:
    """Tell whether a defense can be asked and differentiated in the memory layout that it has."""
    try:
        with seeded(1):
            differentiate(defense.eval(), data.x(slice(N)))
    except Exception as error:  # the rules find any other error
        return not is_layout_error(error)
    return True


def _check_fit(defense: Defense, twin: Defense, data: ImageDataset, must: Rules) -> None:
    trained = {name: p.requires_grad for name, p in defense.named_parameters()}
    images = data.images.clone()
    with global_random_state(must.named("fit")):
        log = defense.fit(data, seed=3, progress=Progress())
    must(isinstance(log, TrainingLog), f"fit must return a TrainingLog, got {kind(log)}")
    must(torch.equal(images, data.images), "fit changed the training images")
    for name, tensor in defense.state_dict().items():
        must(isinstance(tensor, Tensor), f"the state dict's {name} is not a tensor")
        finite = not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
        must(finite, f"after fit, {name} is not finite")
    after = {name: p.requires_grad for name, p in defense.named_parameters()}
    changed = [name for name in trained if after.get(name) != trained[name]]
    must(
        not changed and len(after) == len(trained),
        f"fit must leave requires_grad as it was; changed: {', '.join(changed) or 'names'}",
    )
    # The second run starts from another global state: only `seed` may decide.
    with seeded(17):
        twin.fit(data, seed=3, progress=Progress())
    again = twin.state_dict()
    for name, tensor in defense.state_dict().items():
        same = torch.allclose(tensor.double(), again[name].double(), rtol=1e-3, atol=1e-5)
        must(same, f"fit must depend on its seed alone; {name} differs between two trainings")


def _check_logits(defense: Defense, x: Tensor, n_classes: int, must: Rules) -> Tensor:
    before, kept = x.clone(), snapshot(defense)
    with torch.no_grad(), seeded(5, "cpu", defense):
        logits: Tensor = defense(x)
    must(torch.equal(x, before), "forward must not modify its input")
    _check_scores(logits, len(x), n_classes, must, "forward")
    must(not any(m.training for m in defense.modules()), "forward must stay in evaluation mode")
    changed = changed_tensors(defense, kept)
    must(not changed, f"forward in evaluation mode must not change {changed}")
    with torch.no_grad(), seeded(6, "cpu", defense):
        again = defense(x)
        alone = defense(x[2:3])
    _check_scores(alone, 1, n_classes, must, "forward of one image")
    with torch.no_grad(), seeded(5, "cpu", defense):
        same = torch.equal(logits, defense(x))
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
    return logits


def _check_scores(logits: Any, n: int, n_classes: int, must: Rules, source: str) -> None:
    must(
        isinstance(logits, Tensor) and logits.shape == (n, n_classes),
        f"{source} must return logits of shape {(n, n_classes)}, got {kind(logits)}",
    )
    must(logits.dtype == torch.float32, f"{source} must return float32, got {logits.dtype}")
    must(
        torch.isfinite(logits).all(),
        f"{source} returned a logit that is not finite (for images in [0, 1])",
    )


def _check_predict(defense: Defense, x: Tensor, n_classes: int, must: Rules) -> None:
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


def _check_surrogate(defense: Defense, x: Tensor, y: Tensor, n_classes: int, must: Rules) -> bool:
    """Check the surrogate; tell whether forward, too, has a gradient to follow."""
    probe = x[2:].clone().requires_grad_()
    labels = y[2:]
    with seeded(10):
        logits = defense.surrogate(probe)
    _check_scores(logits, len(probe), n_classes, must, "surrogate")
    must(logits.requires_grad, "surrogate must be differentiable; override it if forward is not")
    loss = cross_entropy(logits, labels).sum()
    (gradient,) = torch.autograd.grad(loss, probe, allow_unused=True)
    must(gradient is not None, "surrogate must be differentiable with respect to the images")
    must(torch.isfinite(gradient).all(), "surrogate has a gradient that is not finite")
    must(
        gradient.any(),
        "surrogate has a gradient of zero everywhere: attacks would be blind; override it",
    )
    with seeded(10):
        logits = defense(probe)
    if not logits.requires_grad:
        return False
    loss = cross_entropy(logits, labels).sum()
    (gradient,) = torch.autograd.grad(loss, probe, allow_unused=True)
    return gradient is not None and bool(gradient.any())


def _check_embed(defense: Defense, x: Tensor, must: Rules) -> None:
    with torch.no_grad(), seeded(11):
        z = defense.embed(x)
    if z is None:
        return
    must(
        isinstance(z, Tensor) and z.dim() == 2 and len(z) == len(x),
        f"embed must return None or embeddings of shape ({len(x)}, k), got {kind(z)}",
    )
    must(
        z.is_floating_point() and bool(torch.isfinite(z).all()),
        "embed returned embeddings that are not finite numbers",
    )


def _check_checkpoint(
    defense: Defense, fresh: Defense, x: Tensor, logits: Tensor, must: Rules
) -> None:
    """A cached model must be complete: what fit learned has to be in the state dict."""
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
        restored = fresh(x)
    # The same seed as the first pass, so that a stochastic defense draws the same noise.
    must(
        torch.allclose(restored, logits, rtol=1e-4, atol=1e-5),
        "a new instance with the same state dict gives other logits: what fit learns must be"
        " parameters or buffers",
    )


def _defense_findings(
    defense: Defense, x: Tensor, y: Tensor, differentiable: bool, must: Rules
) -> Iterator[str]:
    with (
        seeded(12),
        attack_view(defense, len(x), bpda=not differentiable) as view,
    ):
        clamps = clamps_input(view, x, y, margin)
    if clamps:
        yield must.named(
            "forward clamps its input, which hides the gradient of every black and white pixel;"
            " the harness attacks it just inside the box"
        )
    if not differentiable and defense.differentiable:
        yield must.named(
            "forward has no gradient of its own: say so with differentiable = False, and attacks"
            " take the surrogate's"
        )
