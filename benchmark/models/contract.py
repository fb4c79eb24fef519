"""The interface of a defense, checked: what breaks it cannot be measured.

A weak defense is measured like any other. But logits that are not finite, weights that change from
one pass to the next, or images that are changed in place give numbers that mean nothing. Each is a
:class:`~benchmark.errors.PluginError`, whose one line becomes the reason of the failed cells.

Labels are checked whenever the harness asks for them (:func:`labels`); forward is asked about the
clean images before the first attack (:func:`check_answers`), which also finds in which form and
memory layout the model answers.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmark.batching import BATCH_SIZE, Batches
from benchmark.datasets.dataset import ImageDataset
from benchmark.errors import PluginError
from benchmark.models.answer_form import form_of
from benchmark.models.defense import Defense, TrainingLog
from benchmark.models.memory_layout import differentiate, in_layout
from benchmark.models.model_copy import Kept
from benchmark.plugins.process_settings import seeded_by, settings_now
from benchmark.seeding import seeded

FEW = 2
"""Images on which to tell whether a forward pass seeds the global generators."""


def labels(defense: Defense, x: Tensor, n_classes: int) -> Tensor:
    """Return the labels (N,), int64, on the CPU, that ``defense`` predicts for ``x``, checked."""
    found: Any = defense.predict(x)
    if not isinstance(found, Tensor) or found.shape != (len(x),) or found.dtype != torch.int64:
        raise PluginError(
            f"predict returned {kind(found)} for {len(x)} images; it must return int64 labels"
            f" of shape ({len(x)},), as argmax(1) does"
        )
    named: Tensor = found.cpu()
    if len(named) and not (named.min() >= 0 and named.max() < n_classes):
        raise PluginError(
            f"predict returned labels from {int(named.min())} to {int(named.max())};"
            f" there are {n_classes} classes, 0 to {n_classes - 1}"
        )
    return named


def check_fit(log: Any, data: ImageDataset) -> None:
    """Check what fit returned, and that it left the training images ``data`` as they were."""
    if not isinstance(log, TrainingLog):
        raise PluginError(f"fit returned {kind(log)}; it must return a TrainingLog")
    _check_data(data, "fit")


def check_measures(measures: Mapping[str, Any], data: ImageDataset) -> None:
    """Check what measure returned, and that it left the test images ``data`` as they were."""
    try:
        json.dumps(measures)
    except (TypeError, ValueError, RecursionError) as error:
        raise PluginError(f"measure must return plain values for JSON ({error})") from None
    _check_data(data, "measure or embed")


def _check_data(data: ImageDataset, who: str) -> None:
    if not intact(data):
        raise PluginError(f"{who} changed the dataset's images or labels; it must work on copies")


def intact(data: ImageDataset) -> bool:
    """Tell whether the tensors of ``data`` still have its checksum."""
    return data.select(slice(None)).checksum == data.checksum


def get_ready(defense: Defense, data: ImageDataset, seed: int) -> None:
    """Find how ``defense`` answers, as :func:`check_answers` does, and ignore its faults.

    For models that a run has checked already, or that no run checks.
    """
    with suppress(Exception):
        check_answers(defense, data.head(min(BATCH_SIZE, len(data))), seed)


def check_answers(
    defense: Defense, data: ImageDataset, seed: int, say: Callable[[str], None] = lambda _: None
) -> None:
    """Ask a trained ``defense`` about clean images before it is attacked.

    Sets its ``answer_form``, and its memory layout where the present one fails; ``say`` gets a
    line on both. PluginError if what forward or predict returns is not what
    :class:`~benchmark.models.defense.Defense` says, or if asking changes the model, the images or
    the process. The global random state, seeded with ``seed``, is as before afterwards.
    """
    kept = Kept.of(defense)
    device, n_classes = data.device, data.info.n_classes

    def ask(part: Tensor) -> Tensor:
        x = data.x(part)
        logits: Any = defense(x)
        _check_logits(logits, len(x), n_classes)
        _check_untouched(x, data.x(part), "forward")
        return logits.detach()  # type: ignore[no-any-return]

    def predict(part: Tensor) -> None:
        x = data.x(part)
        labels(defense, x, n_classes)
        _check_untouched(x, data.x(part), "predict")

    rows = torch.arange(len(data), device=device)
    try:
        for grad in (False, True):
            with torch.set_grad_enabled(grad), seeded(seed, device, defense):
                before = settings_now()
                some = rows[:FEW] if grad else rows
                asking = partial(Batches(BATCH_SIZE).each, some, ask)
                parts = in_layout(defense, device, asking, say)
                kept.check("forward", before)
            if not grad:
                answers = torch.cat(parts)
        before = settings_now()
        with seeded(seed, device, defense):
            predict(rows[:FEW])
        kept.check("predict", before)
        if seeds := seeded_by(lambda: ask(rows[:FEW]), device):
            raise PluginError(
                f"forward seeds the global generator of {seeds}, so that every draw after it is the"
                " same; it must draw without seeding"
            )
        slope = False
        with suppress(Exception), seeded(seed, device):  # what it raises, an attack will meet
            few = data.x(rows[:FEW])
            slope = in_layout(defense, device, lambda: differentiate(defense, few), say)
        defense.answer_form = form_of(answers, slope)
        if defense.answer_form.note:
            say(defense.answer_form.note)
    finally:
        kept.restore()


def repeats_itself(defense: Defense, data: ImageDataset, seed: int) -> bool:
    """Tell whether ``defense`` answers a few clean images alike twice under one seed."""
    x = data.x(torch.arange(min(FEW, len(data)), device=data.device))

    def ask() -> Tensor:
        with torch.no_grad(), seeded(seed, data.device, defense):
            answer: Tensor = defense(x)
            return answer

    return torch.allclose(ask(), ask(), rtol=1e-3, atol=1e-5, equal_nan=True)


def _check_logits(logits: Any, n: int, n_classes: int) -> None:
    if not isinstance(logits, Tensor) or logits.shape != (n, n_classes):
        raise PluginError(
            f"forward returned {kind(logits)} for {n} images; it must return logits of shape"
            f" ({n}, {n_classes})"
        )
    if logits.is_complex():
        raise PluginError(f"forward returned {logits.dtype} logits; they must be real numbers")
    sound = logits.isfinite().all(1)
    if not sound.all():
        raise PluginError(
            "forward returned logits that are not finite (NaN or infinite) for"
            f" {int((~sound).sum())} of {n} clean images"
        )


def _check_untouched(x: Tensor, before: Tensor, who: str) -> None:
    if not torch.equal(x, before):
        raise PluginError(f"{who} changed its input in place; it must work on a copy (x.clone())")


def kind(value: Any) -> str:
    """Return in words what ``value`` is: a tensor by dtype and shape, else its type."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
