"""``benchmark.evaluate``: any trained model, any images, and how sure the answer is.

The images and the model are brought into the harness's own forms; from there on everything is a
run: the sweep, the tables, the audit, the report.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmark.config.spec import DefenseSpec, HandedOver, RunSpec
from benchmark.datasets.dataset import ImageDataset
from benchmark.datasets.handed_over import read_images
from benchmark.errors import UsageError, unknown_name
from benchmark.evaluation.scoring import CleanPredictions
from benchmark.execution.audit_run import audit_full
from benchmark.execution.runner import Watch, run, unwatched
from benchmark.given.evaluation import Evaluation
from benchmark.given.remarks import clean_remark
from benchmark.given.settings import PRESET, attacks_of, budgets, own_settings
from benchmark.given.supply import GivenSupply
from benchmark.models.adapters import as_defense, fingerprint, left_alone
from benchmark.models.contract import check_answers
from benchmark.models.defense import Defense
from benchmark.progress import ConsoleProgress, Progress
from benchmark.results.audit_words import LEVELS, check_level
from benchmark.tracking.loader import load_trackers
from benchmark.tracking.session import tracked

Channels = Sequence[float] | float | None


def evaluate(
    model: Any,
    data: Any,
    *,
    norm: str = "linf",
    eps: Any = None,
    attacks: str | Sequence[str] = "standard",
    labels: Any = None,
    n: int | None = None,
    mean: Channels = None,
    std: Channels = None,
    outputs: str = "auto",
    n_classes: int | None = None,
    audit: str = "basic",
    device: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    name: str = "",
    verbose: bool = True,
    time_limit: float = 0.0,
    log: str | Sequence[str] = (),
    **reading: Any,
) -> Evaluation:
    """Attack a trained ``model`` on ``data`` over a range of eps and say how sure each number is.

    Args:
        model: an ``nn.Module`` that maps images (N, C, H, W) to logits (N, K), a
            :class:`benchmark.Defense`, or a callable from a NumPy array (n, C, H, W), float32 in
            [0, 1], to scores (n, K) or labels (n,), which is asked for answers only.
        data: ``(images, labels)`` as arrays or tensors (uint8, or float in [0, 1]), a torch Dataset
            or DataLoader, the path of a folder with a subfolder per class, of a Parquet or .npz
            file, a Hugging Face Dataset, or a registered name such as ``"cifar10"``.
        norm: ``"linf"``, ``"l2"``: how an image may move.
        eps: the budgets: a sequence, or a number or word (``"8/255"``) that stands for itself and
            the quarters below it; by default what the field reports on images like these. In
            pixel units of [0, 1].
        attacks: ``"standard"``, or names as ``run --attacks`` takes them:
            ``["pgd", "torchattacks:APGD(steps=50)"]``.
        labels: the labels (n,) where ``data`` holds images alone.
        n: how many images, class-balanced; all by default.
        mean: what the model subtracts from each channel, or one number for all; None if it
            normalises its input itself.
        std: what it divides by then.
        outputs: ``"logits"``, ``"probabilities"``, ``"scores"``, ``"labels"``; ``"auto"`` looks.
        n_classes: the number of classes, where the model's answers do not tell it.
        audit: ``"off"``, ``"basic"`` or ``"full"``: whether the attacks can be believed.
        device: ``"auto"`` (the model's own), ``"cpu"`` or ``"cuda"``.
        seed: what every random number is drawn from.
        out: a folder of runs. The evaluation is kept there, named by a hash of weights, images and
            settings; the same call goes on where it stopped, and ``report`` and ``audit`` work on
            it. By default nothing is kept.
        name: how the model is called in the results; its class by default.
        verbose: whether progress is said on standard error.
        time_limit: seconds that one cell's attack may take; 0 for any.
        log: trackers that are told of each result, such as ``"tensorboard"`` or ``"wandb"``; needs
            ``out``.
        **reading: ``split``, ``resize``, ``crop``, ``data_dir``, ``image_column``,
            ``label_column`` for the kinds of data that have them.

    Raises:
        benchmark.UsageError: in one line, what is wrong with the model, the data or the settings.

    The model itself is left as it was: its mode, device, weights and gradients.
    """
    say = ConsoleProgress() if verbose else Progress()
    check_level(audit, ("off", *LEVELS))
    trackers = load_trackers([log] if isinstance(log, str) else log)
    if trackers and out is None:
        raise UsageError("log: what is logged has to be kept: name a folder with out=")
    with left_alone(model):
        subject = prepare(
            model,
            data,
            labels=labels,
            n=n,
            mean=mean,
            std=std,
            outputs=outputs,
            n_classes=n_classes,
            device=device,
            name=name,
            say=say.say,
            **reading,
        )
        spec = spec_of(subject, norm=norm, eps=eps, attacks=attacks, seed=seed)
        with tracked(trackers, spec, Path(out or "."), say.say) as watch:
            return evaluate_subject(
                subject,
                spec,
                audit=audit,
                out=out,
                progress=say,
                time_limit=time_limit,
                watch=watch,
            )


@dataclass(frozen=True)
class Subject:
    """A model and images in the harness's forms, and what names the model."""

    name: str
    defense: Defense
    data: ImageDataset
    fingerprint: str
    options: dict[str, Any]
    remark: str = ""

    @property
    def supply(self) -> GivenSupply:
        """Both as a run asks for them."""
        return GivenSupply(self.defense, self.fingerprint, self.data)


def prepare(
    model: Any,
    data: Any,
    *,
    labels: Any = None,
    n: int | None = None,
    mean: Channels = None,
    std: Channels = None,
    outputs: str = "auto",
    n_classes: int | None = None,
    device: str = "auto",
    name: str = "",
    say: Callable[[str], None] = lambda _: None,
    **reading: Any,
) -> Subject:
    """Bring a model and images into the harness's forms; arguments as for :func:`evaluate`."""
    known = ("split", "resize", "crop", "data_dir", "image_column", "label_column")
    for key in reading:
        if key not in known:
            raise unknown_name("argument of evaluate", key, known)
    given = read_images(data, labels=labels, n=n, say=say, **reading)
    defense = as_defense(
        model,
        given.few(),
        info=given.info,
        n_classes=n_classes,
        n_labels=given.n_labels,
        outputs=outputs,
        mean=mean,
        std=std,
        device=device,
        say=say,
    )
    at = next((p.device for p in defense.parameters()), None)
    images = given.dataset(defense.info, at or torch.device("cpu"))
    check_answers(defense, images, 0, say)
    clean = CleanPredictions(defense).of(images)
    remark = clean_remark(clean, images.labels.cpu(), images.info.n_classes)
    if remark:
        say(remark)
    return Subject(
        name=name or _name_of(model),
        defense=defense,
        data=images,
        fingerprint=fingerprint(defense, clean[:16].numpy().tobytes()),
        options={"mean": _plain(mean), "std": _plain(std), "outputs": outputs},
        remark=remark,
    )


def spec_of(
    subject: Subject,
    *,
    norm: str,
    eps: Any,
    attacks: str | Sequence[str],
    seed: int,
    changes: Mapping[str, Any] | None = None,
    preset: str = "",
) -> RunSpec:
    """Return the run that an evaluation is.

    Attacks are set as in ``preset``, a name or a file, with ``changes`` (of ``--set``) on top.
    """
    images = subject.data
    grid = budgets(eps, norm, images.info.shape)
    if math.isinf(grid[-1]) or len(grid) < 2:
        raise UsageError("eps: give a budget above 0, for example 8/255")
    found = attacks_of(
        attacks,
        norm=norm,
        eps=grid,
        n=len(images),
        gives=subject.defense.gives,
        settings=own_settings(changes, preset, images.info.name),
    )
    return RunSpec(
        dataset=images.info.name,
        preset=PRESET,
        n_train=0,
        n_test=len(images),
        seeds=(seed,),
        device=images.device.type,
        defenses=(DefenseSpec(subject.name, subject.options, type="handed-over"),),
        attacks=found,
        handed_over=HandedOver(subject.fingerprint, images.checksum),
    )


def evaluate_subject(
    subject: Subject,
    spec: RunSpec,
    *,
    audit: str,
    out: str | Path | None,
    progress: Progress,
    time_limit: float = 0.0,
    command: str = "benchmark.evaluate",
    watch: Watch = unwatched,
) -> Evaluation:
    """Run what is missing of ``spec``, audit it, and read the result."""
    keeper = TemporaryDirectory(prefix="defensebench-") if out is None else None
    folder = Path(out if keeper is None else keeper.name)  # type: ignore[arg-type]
    supply = subject.supply
    result = run(
        spec,
        out=folder,
        command=command,
        progress=progress,
        supply=supply,
        time_limit=time_limit,
        audit=audit != "off",
        keep_images=True,
        watch=watch,
    )
    if audit == "full":
        audit_full(result.path, progress=progress, supply=supply)
    found = Evaluation.load(result.path)
    return Evaluation(found.run, keeper)


def _name_of(model: Any) -> str:
    while hasattr(model, "module") or hasattr(model, "_orig_mod"):  # DataParallel, torch.compile
        model = getattr(model, "_orig_mod", None) or model.module
    named = getattr(model, "__name__", "") or type(model).__name__
    return "function" if named == "<lambda>" else named


def _plain(value: Channels) -> Any:
    """Return a mean or std as JSON holds it."""
    if value is None:
        return None
    listed = getattr(value, "tolist", lambda: value)()
    return [float(x) for x in listed] if isinstance(listed, Sequence) else float(listed)
