"""Where a run departs, by design, from the paper's text and from its authors' published scripts.

:mod:`reports.paper.protocol` compares a run's settings with the ``paper`` preset. This is the rest:
what that preset itself, and the harness under it, do otherwise than the paper. What rests on a
setting is read from the run's settings, so that another setting is another line, or none.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmark.config.presets import preset_for
from benchmark.config.spec import INHOUSE, AttackSpec, DefenseSpec, RunSpec
from reports.paper.protocol import PRESET
from reports.paper.published import DATASET_NAMES, DEFENSE_NAMES, SIZES
from reports.tables.grid import is_number

TEXT = "paper"
SCRIPTS = "authors’ scripts"
REVIEW = "authors’ later scripts"
"""Of a review by the paper's first author: not certainly what the paper's baselines had."""

SOURCES = {
    TEXT: "its text",
    SCRIPTS: "github.com/liyao880/ER-Classifier (2020)",
    REVIEW: "github.com/liyao880/revew_adv_defense (2021), not certainly the paper’s baselines",
}

# What the harness takes where a preset says nothing; reports never load torch, so a test holds
# these against the classes themselves.
TRAINING_DEFAULTS: Mapping[str, Any] = {
    "epochs": 10,
    "batch_size": 100,
    "lr": 1e-3,
    "halve_every": 30,
    "augment": True,
    "holdout": 500,
    "adversary_step_size": None,
}
PGD_DEFAULTS: Mapping[str, Any] = {
    "random_start": True,
    "return_last": False,
    "step_size": None,
    "early_stop": True,
    "steps": 40,
}
OT_DEFAULTS: Mapping[str, Any] = {"lam": 1.0, "pretrain_epochs": 0}
RSE_DEFAULTS: Mapping[str, Any] = {"noise_init": 0.2, "noise_inner": 0.1}
FEWEST_STEPS = 10
"""With fewer, PGD runs at each eps."""

AUGMENTED = ("cifar10", "stl10", "tiny_imagenet")
"""The paper's datasets that the harness augments, unless a training's settings forbid it."""

OT = ("ot-cla", "ot-cla-adv")
CODES = ("e-cla", *OT)
ADVERSARIAL = ("madry", "ot-cla-adv")

# What the scripts set, per dataset; learning rates and dimensions are the preset's own.
SCRIPT_STEP = {"mnist": 0.01, "cifar10": 0.01, "stl10": 0.0078}
SCRIPT_BATCH = {"mnist": 100, "cifar10": 100, "stl10": 64}
SCRIPT_LAM = {"mnist": 5e-4, "cifar10": 0.1, "stl10": 0.1}
SCRIPT_CROPS = ("cifar10", "stl10")
SCRIPT_EPOCHS = {"e-cla": 30, "ot-cla": 30, "ot-cla-adv": 20}


@dataclass(frozen=True)
class Departure:
    """One departure: what the ``source`` says, what is done here, and what that may change."""

    what: str
    source: str
    theirs: str
    here: str
    effect: str


def departures(spec: RunSpec) -> list[Departure]:
    """Return every known departure of a run, those of its settings and those of the harness."""
    return [found for rule in _RULES for found in rule(spec)]


# --- settings ------------------------------------------------------------------------------------


def _start(spec: RunSpec) -> Iterator[Departure]:
    random = [a for a in _pgd(spec) if _of(a.params, PGD_DEFAULTS, "random_start")]
    if random:
        yield Departure(
            "start of PGD",
            TEXT,
            "at the image: “starting from x⁰ = x_o” (section 4.1); the scripts start at random",
            f"at a random point of the ball ({_names(random)}), as does the adversary of training",
            "where gradients vanish at the image a random start finds what the image does not, so"
            " accuracies may be lower; each seed starts elsewhere",
        )


def _last_iterate(spec: RunSpec) -> Iterator[Departure]:
    best = [a for a in _pgd(spec) if not _of(a.params, PGD_DEFAULTS, "return_last")]
    if best:
        yield Departure(
            "what PGD returns",
            SCRIPTS,
            "the last iterate of one run",
            f"the best iterate seen ({_names(best)}), of a defense with noise the last one; the"
            " deployed prediction decides on its success",
            "accuracies can only be lower: no adversarial example found on the way is lost",
        )


def _steps(spec: RunSpec) -> Iterator[Departure]:
    theirs = SCRIPT_STEP.get(spec.dataset)
    if theirs is None:
        return
    used = {
        attack.name: _of(attack.params, PGD_DEFAULTS, "step_size")
        for attack in _pgd(spec)
        if attack.threat.norm == "linf"
    } | {
        f"adversary of {defense.name}": _training(defense, "adversary_step_size")
        for defense in _trained(spec, ADVERSARIAL)
    }
    sizes: dict[str, list[str]] = {}
    for name, size in used.items():
        if size != theirs:
            sizes.setdefault(_size(size), []).append(name)
    if sizes:
        yield Departure(
            "step size of l∞ PGD",
            SCRIPTS,
            f"{theirs:g} in [0, 1] pixel units, in training and in the test",
            _grouped(sizes),
            "40 steps of 0.01 from a random start do not cross a ball of 0.4: the published"
            " accuracies there may be too high"
            if spec.dataset == "mnist"
            else "an attack that moves further, or less far, in as many steps",
        )


def _size(value: Any) -> str:
    if value is None:
        return "2.5 eps / steps, shrinking where one search serves all eps"
    return f"{value:g}"


def _lambda(spec: RunSpec) -> Iterator[Departure]:
    used = {d.name: _of(d.params, OT_DEFAULTS, "lam") for d in _trained(spec, OT)}
    weighted = {name: lam for name, lam in used.items() if lam != 1}
    if weighted:
        encoder = SCRIPT_LAM.get(spec.dataset)
        beside = f", the encoder’s term {encoder:g}" if encoder else ""
        yield Departure(
            "lambda on D’s loss",
            SCRIPTS,
            f"D’s loss weighs 1{beside} (Algorithm 1 of the paper weighs both by lambda)",
            "lambda weighs D’s loss as well, as in Algorithm 1: "
            + ", ".join(f"{lam:g} ({name})" for name, lam in weighted.items()),
            "Adam divides a loss’s scale away, but not below its own epsilon of 1e-8: the first"
            " gradients of a clipped D are smaller, so a small lambda lets D start later",
        )


def _held_out(spec: RunSpec) -> Iterator[Departure]:
    held: dict[str, list[str]] = {}
    for defense in _trained(spec):
        kept = min(int(_training(defense, "holdout")), spec.n_train // 10)
        batch = max(1, int(_training(defense, "batch_size")))
        whole = max(1, (spec.n_train - kept) // batch) * batch
        rest = max(0, spec.n_train - kept - whole)
        if not kept and not rest:
            continue
        words = f"{kept} of {spec.n_train} held out to follow progress"
        words += f"; an epoch leaves out those that fill no batch of {batch}, {rest} here"
        held.setdefault(words, []).append(defense.name)
    if held:
        yield Departure(
            "images trained on",
            TEXT,
            "the training set, whole as far as it says",
            "; ".join(f"{words} ({_everyone(spec, names)})" for words, names in held.items()),
            "fewer images, and a little lower accuracies, most where a tenth is held out; batch"
            " norm takes no batch of one image",
        )


def _sizes(spec: RunSpec) -> Iterator[Departure]:
    """The preset's own numbers of images; where the run's differ from them its settings say so."""
    if spec.dataset not in SIZES:
        return
    settings = preset_for(PRESET, spec.dataset)
    for key, what, theirs in zip(
        ("n_train", "n_test"), ("training images", "test images"), SIZES[spec.dataset], strict=True
    ):
        if settings[key] != theirs:
            yield Departure(
                what,
                TEXT,
                f"{theirs:,} (section 4)",
                f"{settings[key]:,} in the preset “{PRESET}”; {getattr(spec, key):,} in this run",
                "fewer training images make a weaker model, fewer test images a wider interval",
            )


def _augmentation(spec: RunSpec) -> Iterator[Departure]:
    if spec.dataset not in AUGMENTED:
        return
    who = [d.name for d in _trained(spec) if _training(d, "augment")]
    if who:
        crops = spec.dataset in SCRIPT_CROPS
        theirs = "none is named in the text; "
        theirs += (
            "the scripts crop and flip for the OT-Classifier, and do not tell for the baselines"
            if crops
            else f"no script for {DATASET_NAMES[spec.dataset]} was published"
        )
        yield Departure(
            f"augmentation of {DATASET_NAMES[spec.dataset]}",
            TEXT,
            theirs,
            f"random crop with padding 4 and horizontal flip ({_everyone(spec, who)}; a GAN’s own"
            " training has none)",
            "augmented models generalise better and may be a little more robust, the baselines too",
        )


def _batch(spec: RunSpec) -> Iterator[Departure]:
    theirs = SCRIPT_BATCH.get(spec.dataset)
    here = {d.name: int(_training(d, "batch_size")) for d in _trained(spec, CODES)}
    other = {name: n for name, n in here.items() if theirs and n != theirs}
    if other:
        yield Departure(
            "batch size",
            SCRIPTS,
            str(theirs),
            ", ".join(f"{n} ({name})" for name, n in other.items()),
            "another number of steps of D, encoder and classifier per epoch",
        )


def _schedule(spec: RunSpec) -> Iterator[Departure]:
    other: dict[str, list[str]] = {}
    for defense in _trained(spec, CODES):
        epochs, halve = int(_training(defense, "epochs")), int(_training(defense, "halve_every"))
        falls = bool(halve) and epochs > halve
        if epochs != SCRIPT_EPOCHS[defense.type] or falls:
            rate = f"the rate halved every {halve}" if falls else "at a constant rate"
            other.setdefault(f"{epochs} epochs, {rate}", []).append(defense.name)
    if other:
        yield Departure(
            "epochs and learning rate",
            SCRIPTS,
            "30 epochs without adversarial training and 20 with it; a schedule is built and never"
            " stepped, so the rate is constant",
            _grouped(other),
            "longer training and a falling rate bring the embeddings nearer to the prior;"
            " robustness may overfit with longer adversarial training",
        )


def _noise(spec: RunSpec) -> Iterator[Departure]:
    theirs = {"mnist": (0.8, 0.4), "cifar10": (0.2, 0.1)}.get(spec.dataset)
    for defense in _trained(spec, ("rse",)):
        here = tuple(_of(defense.params, RSE_DEFAULTS, name) for name in RSE_DEFAULTS)
        if theirs and here != theirs:
            yield Departure(
                "RSE’s noise",
                REVIEW,
                "{:g} before the first layer and {:g} before the others".format(*theirs),
                "{:g} and {:g}".format(*here),
                "more noise costs clean accuracy and hinders plain PGD, less does the opposite",
            )


def _one_search(spec: RunSpec) -> Iterator[Departure]:
    serving = [
        attack
        for attack in _pgd(spec)
        if attack.eot == 1
        and _of(attack.params, PGD_DEFAULTS, "steps") >= FEWEST_STEPS
        and _of(attack.params, PGD_DEFAULTS, "early_stop")
        and not _of(attack.params, PGD_DEFAULTS, "return_last")
    ]
    if serving and not spec.exact:
        yield Departure(
            "one search for all eps",
            TEXT,
            "models are evaluated at each eps; nothing is told of one search for several",
            f"of a defense without noise all eps are searched in one descent ({_names(serving)})",
            "an image that is robust in one ball counts as robust in the smaller ones; --exact"
            " attacks at each eps",
        )


def _encoder(spec: RunSpec) -> Iterator[Departure]:
    own = _trained(spec, CODES)
    if spec.dataset == "cifar10" and own:
        here: dict[str, list[str]] = {}
        for defense in own:
            trunk = defense.params.get("architecture") or "vgg16"
            epochs = int(_of(defense.params, OT_DEFAULTS, "pretrain_epochs"))
            before = f"pretrained here for {epochs} epochs" if epochs else "not pretrained"
            words = f"{trunk} with batch norm, images in [-1, 1], {before}"
            here.setdefault(words, []).append(defense.name)
        yield Departure(
            "encoder on CIFAR10",
            SCRIPTS,
            "VGG-19 without batch norm, images normalised by ImageNet’s mean and deviation, started"
            " from a stored file that was not published",
            _grouped(here),
            "another depth and normalisation, and a pretraining that nobody can repeat exactly",
        )


# --- the harness ---------------------------------------------------------------------------------


def _adversary(spec: RunSpec) -> Iterator[Departure]:
    who = _trained(spec, ADVERSARIAL)
    if who:
        names = ", ".join(d.name for d in who)
        yield Departure(
            "adversary of training",
            SCRIPTS,
            "the last iterate of the same PGD as in the test; the model in training mode in the"
            " first epoch, in evaluation mode after it",
            "the best iterate after all steps: of those that fool the model, else of all, the one"
            f" of the highest loss; the model always in evaluation mode ({names})",
            "a stronger adversary: more robust and less accurate without an attack; with batch norm"
            " it attacks running statistics, not the batch’s own",
        )


def _mode(spec: RunSpec) -> Iterator[Departure]:
    if _trained(spec, CODES):
        yield Departure(
            "mode while training",
            SCRIPTS,
            "train() is called once, so that from the second epoch on batch norm is frozen at the"
            " first epoch’s statistics and dropout is off",
            "training mode in every epoch",
            "frozen statistics bound what the encoder can do to the embeddings; it may be part of"
            " the gap that the paper’s Figure 3 shows",
        )


def _gradients(spec: RunSpec) -> Iterator[Departure]:
    if _trained(spec, OT):
        yield Departure(
            "gradients within a batch",
            SCRIPTS,
            "not cleared between the encoder’s steps: the classification’s gradient counts twice,"
            " three times with adversarial training",
            "cleared: three updates of one step each, as Algorithm 1 has them",
            "regulariser and classification weigh otherwise beside each other: an equal lambda does"
            " not mean the same",
        )


def _baselines(spec: RunSpec) -> Iterator[Departure]:
    here: dict[str, list[str]] = {}
    for defense in _trained(spec, ("undefended", "madry")):
        words = f"Adam at {_training(defense, 'lr'):g}, {_training(defense, 'epochs')} epochs"
        here.setdefault(words, []).append(defense.name)
    if here:
        yield Departure(
            "training of the baselines",
            REVIEW,
            "SGD at 1e-4, momentum 0.9, weight decay 5e-4, 60 epochs, no schedule",
            _grouped(here),
            "a rate of 1e-4 may leave a baseline weak: ours may be stronger than the published",
        )


def _always(spec: RunSpec) -> Iterator[Departure]:
    yield from _STANDING


_STANDING = (
    Departure(
        "label attacked",
        SCRIPTS,
        "the model’s own prediction, in training and in the test, though the text says the label",
        "the true label",
        "pushed away from a wrong prediction an image may end up right, which inflates accuracies,"
        " the more the lower the clean accuracy",
    ),
    Departure(
        "range of pixels",
        REVIEW,
        "some clip images normalised to [-1, 1] to [0, 1]",
        "[0, 1], with normalisation inside the model, clamped outside the differentiated graph",
        "that clip turns all that is darker than grey to grey; in the graph PyTorch from 2.14 on"
        " passes no gradient at the bounds, and the attack stalls there",
    ),
    Departure(
        "clean errors",
        TEXT,
        "not told",
        "an image that is wrong without any attack counts against the defense, at distance 0",
        "accuracies are over all attacked images",
    ),
)


def _carlini_wagner(spec: RunSpec) -> Iterator[Departure]:
    if any(a.type in ("cw", "latent-cw") and a.library == INHOUSE for a in spec.attacks):
        yield Departure(
            "C&W’s change of variables",
            TEXT,
            "not told",
            "scaled so that pixels at 0 and 1 can move",
            "unscaled C&W hardly moves images of MNIST, and their accuracy stays",
        )


def _fair_attacks(spec: RunSpec) -> Iterator[Departure]:
    if _trained(spec, ("rse", "defense-gan")):
        yield Departure(
            "attacks on RSE and Defense-GAN",
            TEXT,
            "plain PGD on RSE; C&W on Defense-GAN, as Athalye et al. 2018",
            "the presets also attack RSE with its noise averaged out (pgd-eot, pgd-l2-eot), and"
            " Defense-GAN through BPDA and in its latents",
            "the fair attacks leave less",
        )


_RULES: tuple[Callable[[RunSpec], Iterator[Departure]], ...] = (
    _start,
    _last_iterate,
    _steps,
    _lambda,
    _held_out,
    _sizes,
    _augmentation,
    _batch,
    _schedule,
    _noise,
    _one_search,
    _adversary,
    _mode,
    _gradients,
    _encoder,
    _baselines,
    _carlini_wagner,
    _fair_attacks,
    _always,
)


# --- what a run has ------------------------------------------------------------------------------


def _pgd(spec: RunSpec) -> list[AttackSpec]:
    return [a for a in spec.attacks if a.type in ("pgd", "pgd-l2") and a.library == INHOUSE]


def _trained(spec: RunSpec, types: tuple[str, ...] = tuple(DEFENSE_NAMES)) -> list[DefenseSpec]:
    return [defense for defense in spec.defenses if defense.type in types]


def _of(params: Mapping[str, Any], defaults: Mapping[str, Any], name: str) -> Any:
    """Return a setting, or its default where there is none or a stranger's file holds no such."""
    value, default = params.get(name), defaults[name]
    fits = isinstance(value, bool) if isinstance(default, bool) else is_number(value)
    return value if fits else default


def _training(defense: DefenseSpec, name: str) -> Any:
    own = defense.params.get("training")
    return _of(own if isinstance(own, Mapping) else {}, TRAINING_DEFAULTS, name)


def _names(attacks: list[AttackSpec]) -> str:
    return ", ".join(attack.name for attack in attacks)


def _grouped(words: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{word} ({', '.join(names)})" for word, names in words.items())


def _everyone(spec: RunSpec, names: list[str]) -> str:
    every = [d.name for d in spec.defenses]
    return "every defense" if len(every) > 1 and names == every else ", ".join(names)
