"""Attacks of the Adversarial Robustness Toolbox (https://github.com/Trusted-AI/adversarial-robustness-toolbox).

ART works on NumPy arrays of float32. Every hyper-parameter is set here; docs/attack-libraries.md
lists how its attacks differ from others.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from inspect import signature
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.attacks.base import Attack
from benchmark.attacks.peers.base import Call, Naming, PeerCW, PeerPGD, Served, adapt, variants
from benchmark.attacks.peers.library import AttackLibrary
from benchmark.attacks.view import AttackView
from benchmark.errors import UsageError, unknown_name

NORMS: Mapping[str, Any] = {"linf": np.inf, "l2": 2}


def classifier(view: AttackView, x: Tensor, *, probabilities: bool = False) -> Any:
    """Return ART's estimator around ``view`` for images like ``x`` (N, C, H, W).

    It answers in logits, or in ``probabilities`` for an attack that needs them.
    """
    from art.estimators.classification import PyTorchClassifier

    served = Served(view)
    return PyTorchClassifier(
        model=nn.Sequential(served, nn.Softmax(1)).eval() if probabilities else served,
        # The sum: dividing by the batch size could underflow the gradient of a confident image.
        loss=nn.CrossEntropyLoss(reduction="sum"),
        input_shape=tuple(x.shape[1:]),
        nb_classes=view.defense.info.n_classes,
        optimizer=None,
        channels_first=True,
        clip_values=(0.0, 1.0),
        preprocessing_defences=None,
        postprocessing_defences=None,
        preprocessing=None,
        device_type="gpu" if x.is_cuda else "cpu",
    )


def generate(attack: Any, view: AttackView, x: Tensor, y: Tensor | None) -> Tensor:
    """Run an ART attack on ``x``, brought to NumPy and back, with labels ``y`` (N,), if any."""
    one_hot = None
    if y is not None:
        one_hot = F.one_hot(y, view.defense.info.n_classes).cpu().numpy().astype(np.float32)
    found = attack.generate(x=x.detach().cpu().numpy().copy(), y=one_hot)
    return torch.as_tensor(np.asarray(found), device=x.device)


@dataclass(frozen=True, kw_only=True)
class PGD(PeerPGD):
    """ART's ProjectedGradientDescent; ``restarts`` are its random initialisations."""

    library: ClassVar[str] = "art"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"art restarts at random points only, got restarts {self.restarts}")

    def search(
        self, view: AttackView, x: Tensor, y: Tensor, eps: float, generator: torch.Generator
    ) -> Tensor:
        """See :class:`benchmark.attacks.peers.base.ByBudget`."""
        from art.attacks.evasion import ProjectedGradientDescent

        attack = ProjectedGradientDescent(
            estimator=classifier(view, x),
            norm=NORMS[self.norm],
            eps=eps,
            eps_step=self.step(eps),
            decay=None,
            max_iter=self.steps,
            targeted=False,
            num_random_init=self.restarts if self.random_start else 0,
            batch_size=len(x),
            random_eps=False,
            summary_writer=False,
            verbose=False,
        )
        return generate(attack, view, x, y)


PGDL2, FGSM = variants(PGD)


@dataclass(frozen=True, kw_only=True)
class CW(PeerCW):
    """ART's CarliniL2Method: gradient descent with a line search in place of Adam.

    ``lr`` is where the line search starts; it halves and doubles up to ``max_halving`` and
    ``max_doubling`` times in each iteration.
    """

    library: ClassVar[str] = "art"
    fixed: ClassVar[Mapping[str, Any]] = {"abort_early": False}

    abort_early: bool = False
    max_halving: int = 5
    max_doubling: int = 5

    def run(self, view: AttackView, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :meth:`benchmark.attacks.base.MinimalAttack.run`; where it fails, the clean image."""
        from art.attacks.evasion import CarliniL2Method

        attack = CarliniL2Method(
            classifier=classifier(view, x),
            confidence=self.confidence,
            targeted=self.targeted,
            learning_rate=self.lr,
            binary_search_steps=self.search_steps,
            max_iter=self.steps,
            initial_const=self.initial_c,
            max_halving=self.max_halving,
            max_doubling=self.max_doubling,
            batch_size=len(x),
            verbose=False,
        )
        return generate(attack, view, x, y)


# --- by name -----------------------------------------------------------------------------------

MANAGED = ("estimator", "classifier", "batch_size", "verbose", "targeted", "summary_writer")

PROBABILITIES = ("NewtonFool", "SimBA", "VirtualAdversarialMethod")
"""Attacks that compute with probabilities; the others take logits."""

ONE_BY_ONE = ("ShadowAttack", "SimBA", "ZooAttack")
"""Attacks that take a single image at a time, or mix images up where they take several."""

AIMED = ("SaliencyMapMethod", "TargetedUniversalPerturbation")
"""Attacks that are always targeted: each image is given a random wrong class to aim at."""

UNLABELLED = ("ShadowAttack",)
"""Attacks that take any label for a target: without one they leave the class that the model sees,
which of an attacked image is the right one."""

MEASURED: Mapping[str, str] = {"VirtualAdversarialMethod": "l2"}
"""The norm that an attack without a word for it searches in, where its name does not tell."""

_DETECTOR = "it attacks an object detector, not a classifier of images"
_GUIDE = "it imitates a guide image, and the harness has none to give"
_PATCH = "it makes a patch or a texture, not an image near the given one"
_SPEECH = "it attacks speech recognition"
_TENSORFLOW = "it needs a model of TensorFlow"

UNABLE: Mapping[str, str] = {
    "AdversarialPatch": _PATCH,
    "AdversarialPatchNumpy": _PATCH,
    "AdversarialPatchPyTorch": _PATCH,
    "AdversarialPatchTensorFlowV2": _TENSORFLOW,
    "AdversarialTexturePyTorch": _PATCH,
    "CarliniWagnerASR": _SPEECH,
    "DPatch": _DETECTOR,
    "DecisionTreeAttack": "it attacks decision trees of scikit-learn",
    "FeatureAdversariesNumpy": _GUIDE,
    "FeatureAdversariesPyTorch": _GUIDE,
    "FeatureAdversariesTensorFlowV2": _TENSORFLOW,
    "FrameSaliencyAttack": "it attacks video, frame by frame",
    "GRAPHITEBlackbox": "it makes a sticker for a physical object, seen from many sides",
    "GRAPHITEWhiteboxPyTorch": "it makes a sticker for a physical object, seen from many sides",
    "HighConfidenceLowUncertainty": "it attacks Gaussian processes of GPy",
    "ImperceptibleASR": _SPEECH,
    "ImperceptibleASRPyTorch": _SPEECH,
    "LaserAttack": "it needs a generator of laser beams, a Python object",
    "LowProFool": "it attacks tabular data",
    "MalwareGDTensorFlow": "it attacks a classifier of malware",
    "OverTheAirFlickeringPyTorch": "it attacks video",
    "OverloadPyTorch": _DETECTOR,
    "ProjectedGradientDescentTensorFlowV2": _TENSORFLOW,
    "RobustDPatch": _DETECTOR,
    "SNAL": _DETECTOR,
}
"""Attacks that nothing in this harness can run, and why."""

PACKAGES: Mapping[str, str] = {
    "AutoAttack": "multiprocess",
    "CompositeAdversarialAttackPyTorch": "kornia",
    "ThresholdAttack": "cma",
}
"""Attacks that need a package that ART does not install."""


def _run(cls: type, call: Call, arguments: dict[str, Any]) -> Tensor:
    name = cls.__name__
    estimator = classifier(call.view, call.x, probabilities=name in PROBABILITIES)
    at_once = 1 if name in ONE_BY_ONE else len(call.x)
    ours = {
        "estimator": estimator,
        "classifier": estimator,
        "batch_size": at_once,
        "verbose": False,
        "targeted": False,
        "summary_writer": False,
    }
    taken = signature(cls).parameters
    attack = cls(**arguments, **{name: ours[name] for name in MANAGED if name in taken})
    y = _others(call) if name in AIMED else call.y
    labels = [None if name in UNLABELLED else part for part in torch.split(y, at_once)]
    parts = zip(torch.split(call.x, at_once), labels, strict=True)
    with _geoda() if name == "GeoDA" else nullcontext():
        return torch.cat([generate(attack, call.view, *part) for part in parts])


@contextmanager
def _geoda() -> Iterator[None]:
    """Give GeoDA what it needs: NumPy's old name for a matrix, and a folder for its files."""
    with (
        tempfile.TemporaryDirectory() as folder,
        chdir(folder),  # it writes a basis into the working directory, and reads it
        patch.object(np, "mat", np.asmatrix, create=True),
    ):
        yield


def _others(call: Call) -> Tensor:
    """Return a random class (N,) for each image that is not its own."""
    n_classes = call.view.defense.info.n_classes
    draw = {"generator": call.generator, "device": call.generator.device}
    shift = torch.randint(1, n_classes, call.y.shape, **draw)  # type: ignore[call-overload]
    other: Tensor = (call.y + shift.to(call.y)) % n_classes
    return other


@cache
def classes() -> Mapping[str, type]:
    """Return ART's evasion attack classes by name."""
    from art.attacks import evasion
    from art.attacks.attack import EvasionAttack

    return {
        key: value
        for key, value in vars(evasion).items()
        if isinstance(value, type) and issubclass(value, EvasionAttack)
    }


@cache
def named(name: str) -> type[Attack]:
    """Return an adapter for ART's evasion attack class ``name``; UsageError if it cannot run here.

    Judged in the class's own ``norm``; without one in l2 if it is minimal or says L2, else linf.
    """
    known = classes()
    if name not in known:
        raise unknown_name("attack of art", name, [key for key in known if key not in UNABLE])
    if name in UNABLE:
        raise UsageError(f"art:{name} cannot run here: {UNABLE[name]}")
    package = PACKAGES.get(name)
    if package and find_spec(package) is None:
        raise UsageError(
            f"art:{name} needs the package {package}, which ART does not install:"
            f" pip install {package}"
        )
    cls = known[name]
    minimal = "eps" not in signature(cls).parameters
    l2 = "linf" not in name.lower() and (minimal or "l2" in name.lower())
    naming = Naming("art", MANAGED, NORMS, "eps_step", _run)
    return adapt(naming, cls, MEASURED.get(name, "l2" if l2 else "linf"))


LIBRARY = AttackLibrary(
    name="art",
    package="art",
    distribution="adversarial-robustness-toolbox",
    install="pip install adversarial-robustness-toolbox",
    attacks={"pgd": PGD, "pgd-l2": PGDL2, "fgsm": FGSM, "cw": CW},
    named=named,
    classes=classes,
)
