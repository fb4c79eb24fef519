"""The conformance suite: what every defense and every attack must do, checked on tiny images.

A plugin runs it in its own tests::

    from benchmark.testing import check_defense
    from my_package.my_module import MyDefense

    def test_conforms():
        check_defense(MyDefense)

A broken rule raises an AssertionError that names it. What is allowed, but costs something or
misleads, is returned as a list of findings and raised as :class:`ConformanceWarning`, which pytest
shows in its summary. Everything runs on the CPU in a second or so.
"""

import inspect
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.attack import Attack, BudgetAttack, MinimalAttack
from benchmark.attacks.pgd import cross_entropy, margin
from benchmark.checkpoints import Checkpoints
from benchmark.datasets import ImageDataset
from benchmark.defense import Defense
from benchmark.norms import Eps, distance
from benchmark.progress import Progress
from benchmark.seeding import generator, seeded
from benchmark.spec import NORMS
from benchmark.splits import DatasetInfo
from benchmark.sweep import TOLERANCE
from benchmark.training import TrainingLog, TrainingSettings
from benchmark.view import attack_view, clamps_input

__all__ = ["COLOUR", "GREY", "ConformanceWarning", "check_attack", "check_defense", "tiny_dataset"]

GREY = DatasetInfo("tiny-grey", (1, 28, 28), 10, tuple("0123456789"), augment=False)
COLOUR = DatasetInfo("tiny-colour", (3, 32, 32), 10, tuple("0123456789"), augment=True)

SHORT = TrainingSettings(epochs=1, batch_size=16, holdout=4, adversary_steps=2)
"""Training of the check: the default of a defense that takes ``training``."""

WIDTH = 0.1
"""Width of the check: the default of a defense that takes ``width``."""

N = 8


class ConformanceWarning(UserWarning):
    """Something that a plugin may do, but that its author should know."""


def tiny_dataset(info: DatasetInfo = GREY, n: int = 40, seed: int = 0) -> ImageDataset:
    """Return ``n`` images of noise around a brightness per class: quick to make and to learn."""
    rng = generator(seed)
    labels = torch.arange(n) % info.n_classes
    centre = (labels * 255 // max(1, info.n_classes - 1)).view(n, 1, 1, 1)
    noise = torch.randint(-64, 65, (n, *info.shape), generator=rng)
    images = (centre + noise).clamp(0, 255).to(torch.uint8)
    return ImageDataset.from_tensors(
        info, images, labels, torch.arange(n), source="embedded", n_available=n
    )


# --- defenses --------------------------------------------------------------------------------


def check_defense(cls: type[Defense], info: DatasetInfo | None = None, **options: Any) -> list[str]:
    """Train ``cls(info, **options)`` briefly and check every rule of a defense.

    ``info`` describes the images, by default :data:`GREY` (28x28); a defense for colour images
    passes :data:`COLOUR`. Where the class takes ``training`` or ``width`` and ``options`` has
    none, short and narrow ones are used. Returns the findings; AssertionError names a broken rule.
    """
    info = info or GREY
    _require(
        isinstance(cls, type) and issubclass(cls, Defense),
        f"{cls!r} is not a subclass of benchmark.Defense",
    )
    parameters = inspect.signature(cls).parameters
    for name, value in (("training", SHORT), ("width", WIDTH)):
        if name in parameters:
            options.setdefault(name, value)

    def build(seed: int) -> Defense:
        # As the runner does: under a seed of its own, in channels-last memory.
        with seeded(seed):
            defense = cls(info, **options)
        defense.to(memory_format=torch.channels_last)
        return defense

    def what(rule: str) -> str:
        return f"{cls.__name__}: {rule}"

    data = tiny_dataset(info)
    defense = build(1)
    _check_fit(defense, build(1), data, what)
    defense.eval()
    x = data.x(slice(N))
    # Every kind of pixel: black, white, and what lies between.
    x[0], x[1] = 0.0, 1.0
    x[2:].mul_(0.9).add_(0.05)
    logits = _check_logits(defense, x, info.n_classes, what)
    _check_predict(defense, x, info.n_classes, what)
    differentiable = _check_surrogate(defense, x, data.labels[:N], info.n_classes, what)
    _check_embed(defense, x, what)
    _check_checkpoint(defense, build(2), x, logits, what)
    findings = _defense_findings(defense, x, data.labels[:N], differentiable, what)
    return _report(findings)


Words = Callable[[str], str]
"""Puts the name of what is checked before a rule."""


def _check_fit(defense: Defense, twin: Defense, data: ImageDataset, what: Words) -> None:
    trained = {name: p.requires_grad for name, p in defense.named_parameters()}
    images = data.images.clone()
    with _global_random_state(what("fit")):
        log = defense.fit(data, seed=3, progress=Progress())
    _require(isinstance(log, TrainingLog), what(f"fit must return a TrainingLog, got {_kind(log)}"))
    _require(torch.equal(images, data.images), what("fit changed the training images"))
    for name, tensor in defense.state_dict().items():
        _require(isinstance(tensor, Tensor), what(f"the state dict's {name} is not a tensor"))
        finite = not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
        _require(finite, what(f"after fit, {name} is not finite"))
    after = {name: p.requires_grad for name, p in defense.named_parameters()}
    changed = [name for name in trained if after.get(name) != trained[name]]
    _require(
        not changed and len(after) == len(trained),
        what(f"fit must leave requires_grad as it was; changed: {', '.join(changed) or 'names'}"),
    )
    # The second run starts from another global state: only `seed` may decide.
    with seeded(17):
        twin.fit(data, seed=3, progress=Progress())
    again = twin.state_dict()
    for name, tensor in defense.state_dict().items():
        same = torch.allclose(tensor.double(), again[name].double(), rtol=1e-3, atol=1e-5)
        _require(
            same, what(f"fit must depend on its seed alone; {name} differs between two trainings")
        )


def _check_logits(defense: Defense, x: Tensor, n_classes: int, what: Words) -> Tensor:
    before, kept = x.clone(), _snapshot(defense)
    with torch.no_grad(), seeded(5):
        logits: Tensor = defense(x)
    _require(torch.equal(x, before), what("forward must not modify its input"))
    _check_scores(logits, len(x), n_classes, what, "forward")
    _require(
        not any(m.training for m in defense.modules()),
        what("forward must stay in evaluation mode"),
    )
    changed = _changed(defense, kept)
    _require(not changed, what(f"forward in evaluation mode must not change {changed}"))
    with torch.no_grad(), seeded(6):
        again = defense(x)
        alone = defense(x[2:3])
    _check_scores(alone, 1, n_classes, what, "forward of one image")
    with torch.no_grad(), seeded(5):
        same = torch.equal(logits, defense(x))
    _require(
        same or not defense.stochastic,
        what("forward must draw its noise from torch's global generator, which the harness seeds"),
    )
    if not defense.stochastic:
        _require(
            same and torch.equal(logits, again),
            what("forward differs between two passes on the same images; set stochastic = True"),
        )
        _require(
            torch.allclose(alone, logits[2:3], rtol=1e-3, atol=1e-4),
            what("an image's logits depend on the other images of its batch"),
        )
    return logits


def _check_scores(logits: Any, n: int, n_classes: int, what: Words, source: str) -> None:
    _require(
        isinstance(logits, Tensor) and logits.shape == (n, n_classes),
        what(f"{source} must return logits of shape {(n, n_classes)}, got {_kind(logits)}"),
    )
    _require(
        logits.dtype == torch.float32,
        what(f"{source} must return float32, got {logits.dtype}"),
    )
    _require(
        bool(torch.isfinite(logits).all()),
        what(f"{source} returned a logit that is not finite (for images in [0, 1])"),
    )


def _check_predict(defense: Defense, x: Tensor, n_classes: int, what: Words) -> None:
    before = x.clone()
    for images in (x, x[:1]):
        with seeded(7):
            labels = defense.predict(images)
        _require(
            isinstance(labels, Tensor) and labels.shape == (len(images),),
            what(f"predict must return labels of shape ({len(images)},), got {_kind(labels)}"),
        )
        _require(
            labels.dtype == torch.int64, what(f"predict must return int64, got {labels.dtype}")
        )
        _require(
            bool(((labels >= 0) & (labels < n_classes)).all()),
            what(f"predict must return labels from 0 to {n_classes - 1}"),
        )
    _require(torch.equal(x, before), what("predict must not modify its input"))
    if not defense.stochastic:
        with seeded(8):
            first = defense.predict(x)
        with seeded(9):
            second = defense.predict(x)
        _require(
            torch.equal(first, second),
            what("predict differs between two calls on the same images; set stochastic = True"),
        )


def _check_surrogate(defense: Defense, x: Tensor, y: Tensor, n_classes: int, what: Words) -> bool:
    """Check the surrogate; tell whether forward, too, has a gradient to follow."""
    probe = x[2:].clone().requires_grad_()
    labels = y[2:]
    with seeded(10):
        logits = defense.surrogate(probe)
    _check_scores(logits, len(probe), n_classes, what, "surrogate")
    _require(
        logits.requires_grad,
        what("surrogate must be differentiable; override it if forward is not"),
    )
    loss = cross_entropy(logits, labels).sum()
    (gradient,) = torch.autograd.grad(loss, probe, allow_unused=True)
    _require(
        gradient is not None,
        what("surrogate must be differentiable with respect to the images"),
    )
    _require(
        bool(torch.isfinite(gradient).all()), what("surrogate has a gradient that is not finite")
    )
    _require(
        bool(gradient.any()),
        what("surrogate has a gradient of zero everywhere: attacks would be blind; override it"),
    )
    with seeded(10):
        logits = defense(probe)
    if not logits.requires_grad:
        return False
    loss = cross_entropy(logits, labels).sum()
    (gradient,) = torch.autograd.grad(loss, probe, allow_unused=True)
    return gradient is not None and bool(gradient.any())


def _check_embed(defense: Defense, x: Tensor, what: Words) -> None:
    with torch.no_grad(), seeded(11):
        codes = defense.embed(x)
    if codes is None:
        return
    _require(
        isinstance(codes, Tensor) and codes.dim() == 2 and len(codes) == len(x),
        what(f"embed must return None or codes of shape ({len(x)}, k), got {_kind(codes)}"),
    )
    _require(
        codes.is_floating_point() and bool(torch.isfinite(codes).all()),
        what("embed returned codes that are not finite numbers"),
    )


def _check_checkpoint(
    defense: Defense, fresh: Defense, x: Tensor, logits: Tensor, what: Words
) -> None:
    """A cached model must come back whole: what fit learned has to be in the state dict."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Checkpoints(Path(folder))
        try:
            cache.save("conformance", defense, TrainingLog())
            fresh.load_state_dict(defense.state_dict())
        except (RuntimeError, ValueError, TypeError) as error:
            raise AssertionError(what(f"its state dict cannot be kept: {error}")) from error
        _require(
            cache.load("conformance", fresh) is not None,
            what("its state dict cannot be loaded into a new instance"),
        )
    fresh.eval()
    with torch.no_grad(), seeded(5):
        restored = fresh(x)
    # The same seed as the first pass, so that a stochastic defense draws the same noise.
    _require(
        torch.allclose(restored, logits, rtol=1e-4, atol=1e-5),
        what(
            "a new instance with the same state dict gives other logits: what fit learns must be"
            " parameters or buffers"
        ),
    )


def _defense_findings(
    defense: Defense, x: Tensor, y: Tensor, differentiable: bool, what: Words
) -> Iterator[str]:
    with (
        seeded(12),
        attack_view(defense, len(x), bpda=not differentiable) as view,
    ):
        clamps = clamps_input(view, x, y, margin)
    if clamps:
        yield what(
            "forward clamps its input, which hides the gradient of every black and white pixel;"
            " the harness attacks it just inside the box"
        )
    if not differentiable:
        yield what("forward has no gradient of its own: attack it with bpda = true")


# --- attacks ---------------------------------------------------------------------------------

BUDGETS = {"linf": (0.0, 1e-3, 0.03, 0.2), "l2": (0.0, 0.02, 0.5, 3.0)}
"""Budgets of the check; the largest suffices to turn every image of :class:`_Linear`."""


class _Linear(Defense):
    """Logits W x of fixed random W: closed-form distances, and images far from any boundary."""

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__(info)
        pixels = int(np.prod(info.shape))
        weight = torch.randn(info.n_classes, pixels, generator=generator(20))
        self.weight = torch.nn.Parameter(weight / pixels**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ self.weight.T


def check_attack(attack: Attack) -> list[str]:
    """Run ``attack`` on a linear model and check every rule of its family.

    Returns the findings (none so far); AssertionError names a broken rule.
    """
    name = type(attack).__name__
    if not isinstance(attack, BudgetAttack | MinimalAttack):
        raise AssertionError(f"{name} must be a BudgetAttack or a MinimalAttack of benchmark")
    _require(attack.norm in NORMS, f"{name}: norm must be one of {NORMS}, got {attack.norm!r}")
    case = _AttackCase(attack, name)
    x, y = case.images, case.labels
    if isinstance(attack, MinimalAttack):
        largest: Eps = float("inf")
        case.check("", x, y, largest)
    else:
        for eps in BUDGETS[attack.norm]:
            case.check(f" at eps {eps:g}", x, y, eps)
        largest = BUDGETS[attack.norm][-1]
        case.check(" with eps per sample", x, y, torch.linspace(0, largest, len(x)))
    case.check(" on a batch of one", x[:1], y[:1], largest)
    case.check(" on images that the model gets wrong", x, (y + 1) % GREY.n_classes, largest)
    case.check(" on black and white images", x.round(), y, largest)
    case.check_reproducible(x, y, largest)
    case.check_effect(x, y, largest)
    return []


class _AttackCase:
    """An attack, the linear model it runs on, and the rules that hold for every call."""

    def __init__(self, attack: BudgetAttack | MinimalAttack, name: str) -> None:
        self.attack = attack
        self.name = name
        self.defense = _Linear(GREY).eval()
        # Grey images: within the largest l-inf budget, the box does not bind.
        self.images = 0.3 + 0.4 * torch.rand(N, *GREY.shape, generator=generator(21))
        self.labels = self.defense.predict(self.images)

    def run(self, x: Tensor, y: Tensor, eps: Eps) -> Tensor:
        with seeded(22), attack_view(self.defense, len(x)) as view:
            if isinstance(self.attack, BudgetAttack):
                found = self.attack.run(view, x, y, eps=eps, generator=generator(23))
            else:
                found = self.attack.run(view, x, y, generator=generator(23))
            modes = [module.training for module in self.defense.modules()]
        _require(not any(modes), f"{self.name} must leave the model in evaluation mode")
        return found

    def check(self, where: str, x: Tensor, y: Tensor, eps: Eps) -> None:
        def what(rule: str) -> str:
            return f"{self.name}{where}: {rule}"

        clean, labels, kept = x.clone(), y.clone(), _snapshot(self.defense)
        found = self.run(x, y, eps)
        _require(torch.equal(x, clean), what("it must not modify the images it is given"))
        _require(torch.equal(y, labels), what("it must not modify the labels it is given"))
        changed = _changed(self.defense, kept)
        _require(
            not changed, what(f"it must leave the model's parameters alone; changed {changed}")
        )
        _require(
            all(p.grad is None for p in self.defense.parameters()),
            what("it must leave no gradient on the model's parameters"),
        )
        _require(
            isinstance(found, Tensor) and found.shape == x.shape,
            what(f"it must return images of shape {tuple(x.shape)}, got {_kind(found)}"),
        )
        _require(found.dtype == x.dtype, what(f"it must return {x.dtype}, got {found.dtype}"))
        found = found.detach()
        _require(bool(torch.isfinite(found).all()), what("it returned a pixel that is no number"))
        _require(
            bool(((found >= 0) & (found <= 1)).all()),
            what("it must stay in the box: pixels in [0, 1]"),
        )
        if isinstance(self.attack, BudgetAttack):
            budget = torch.as_tensor(eps, dtype=torch.float64).expand(len(x))
            far = distance(found, x, self.attack.norm)
            slack = budget * TOLERANCE + torch.finfo(torch.float32).eps * _spread(self.attack, x)
            _require(
                bool((far <= budget + slack).all()),
                what(
                    f"it must stay in the ball: distance {float((far - budget).max()):.2g}"
                    " more than eps"
                ),
            )
        self._check_no_worse(found, x, y, what)

    def _check_no_worse(self, found: Tensor, x: Tensor, y: Tensor, what: Words) -> None:
        with torch.no_grad():
            before, after = self.defense(x), self.defense(found)
        was_wrong, wrong = before.argmax(1) != y, after.argmax(1) != y
        _require(
            bool((wrong | ~was_wrong).all()),
            what("an image that the model got wrong is right after the attack"),
        )
        if isinstance(self.attack, BudgetAttack):
            slack = 1e-4 + 1e-4 * cross_entropy(before, y)
            higher = cross_entropy(after, y) >= cross_entropy(before, y) - slack
            _require(
                bool((wrong | higher).all()),
                what("it must return the best it saw; this is worse than the clean image"),
            )

    def check_reproducible(self, x: Tensor, y: Tensor, eps: Eps) -> None:
        _require(
            torch.equal(self.run(x, y, eps), self.run(x, y, eps)),
            f"{self.name}: the same generator and seed must give the same images",
        )

    def check_effect(self, x: Tensor, y: Tensor, eps: Eps) -> None:
        turned = self.defense.predict(self.run(x, y, eps).detach()) != y
        _require(
            bool(turned.any()),
            f"{self.name}: it turned none of {len(x)} images of a linear model, for which every"
            " image has an adversarial one within the budget",
        )


def _spread(attack: Attack, x: Tensor) -> float:
    """How often float32's spacing may add up: once per pixel in l-inf, over all pixels in l2."""
    return 1.0 if attack.norm == "linf" else float(x[0].numel()) ** 0.5


# --- shared ----------------------------------------------------------------------------------


def _require(holds: bool, rule: str) -> None:
    # No assert statement: the rules must hold under python -O, too.
    if not holds:
        raise AssertionError(rule)


def _report(findings: Iterator[str]) -> list[str]:
    found = list(findings)
    for finding in found:
        warnings.warn(finding, ConformanceWarning, stacklevel=3)
    return found


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return type(value).__name__


def _snapshot(defense: Defense) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in defense.state_dict().items()}


def _changed(defense: Defense, before: dict[str, Tensor]) -> str:
    """Return the names of the tensors that differ from ``before``, separated by commas."""
    now = defense.state_dict()
    differ = [
        name for name in before if name not in now or not torch.equal(now[name], before[name])
    ]
    return ", ".join([*differ, *(name for name in now if name not in before)])


@contextmanager
def _global_random_state(who: str) -> Iterator[None]:
    """Fail if the block moves Python's, NumPy's or torch's global generator."""
    states: dict[str, Callable[[], Any]] = {
        "random": random.getstate,
        "numpy.random": lambda: [repr(part) for part in np.random.get_state()],
        "torch": lambda: torch.get_rng_state().tolist(),
    }
    before = {name: state() for name, state in states.items()}
    yield
    for name, state in states.items():
        _require(
            state() == before[name],
            f"{who} changed the global random state of {name}; pass a torch.Generator,"
            " or work inside benchmark.seeding.seeded",
        )
