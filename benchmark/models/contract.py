"""What cannot be measured: a model that breaks its interface, or does not stay what it was.

A defense may be weak, and an attack may find nothing: that is measured. But logits that are no
numbers, weights that change from one pass to the next or images that are changed under the judge's
hands give numbers that mean nothing. Each is a
:class:`~benchmark.errors.PluginError`, whose one line becomes the reason of the failed cells.

What the harness asks anyway is checked on the way (:func:`labels`, :func:`check_batch`); forward is
asked once more about the clean images before the first attack (:func:`check_answers`), which also
finds in which form and memory layout the model answers; and a copy of the weights stands ready for
the next attack should one be spoiled (:class:`Kept`).
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.batching import Batches
from benchmark.datasets.dataset import ImageDataset
from benchmark.errors import PluginError
from benchmark.models.answer_form import form_of
from benchmark.models.defense import Defense, TrainingLog
from benchmark.models.memory_layout import differentiate, in_layout
from benchmark.plugins.process_settings import changed_settings, seeded_by, settings_now
from benchmark.seeding import seeded

BATCH_SIZE = 256
"""So many clean images are asked about at a time."""


FEW = 2
"""So many images tell whether a forward pass seeds the global generators."""


TABLES = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
"""Where a torch module keeps what it consists of."""


def labels(defense: Defense, x: Tensor, n_classes: int) -> Tensor:
    """Return the labels (N,), int64, on the CPU, that ``defense`` predicts for ``x``, checked."""
    found: Any = defense.predict(x)
    if not isinstance(found, Tensor) or found.shape != (len(x),) or found.dtype != torch.int64:
        raise PluginError(
            f"predict returned {_kind(found)} for {len(x)} images; it must return int64 labels"
            f" of shape ({len(x)},), as argmax(1) does"
        )
    named: Tensor = found.cpu()
    if len(named) and not (named.min() >= 0 and named.max() < n_classes):
        raise PluginError(
            f"predict returned labels from {int(named.min())} to {int(named.max())};"
            f" there are {n_classes} classes, 0 to {n_classes - 1}"
        )
    return named


def modes(defense: Defense) -> dict[str, bool]:
    """Return which parts of ``defense`` are in training mode, by name."""
    return {name: module.training for name, module in defense.named_modules()}


def _check_modes(defense: Defense, before: Mapping[str, bool], who: str) -> None:
    switched = [
        name or "the model"
        for name, mode in modes(defense).items()
        if mode != before.get(name, mode)
    ]
    if switched:
        raise PluginError(
            f"{who} switched {_some(switched)} between training and evaluation mode; it must leave"
            " the mode alone"
        )


def check_fit(log: Any, data: ImageDataset) -> None:
    """Check what fit returned, and that it left the training images ``data`` as they were."""
    if not isinstance(log, TrainingLog):
        raise PluginError(f"fit returned {_kind(log)}; it must return a TrainingLog")
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
    """Find how ``defense`` answers, as :func:`check_answers` does, and leave its faults to others.

    For whoever attacks a model that a run has checked already, or that no run checks.
    """
    with suppress(Exception):
        check_answers(defense, data.head(min(BATCH_SIZE, len(data))), seed)


def _silent(text: str) -> None:
    """Tell nobody."""


def check_answers(
    defense: Defense, data: ImageDataset, seed: int, say: Callable[[str], None] = _silent
) -> None:
    """Ask a trained ``defense`` about clean images before anybody attacks it.

    Sets its ``answer_form``, and its memory layout where it does not bear the one it has; ``say``
    hears of both. PluginError if what forward or predict returns is not what
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
    """Tell whether ``defense`` answers a few clean images twice alike under one seed."""
    x = data.x(torch.arange(min(FEW, len(data)), device=data.device))

    def ask() -> Tensor:
        with torch.no_grad(), seeded(seed, data.device, defense):
            answer: Tensor = defense(x)
            return answer

    return torch.allclose(ask(), ask(), rtol=1e-3, atol=1e-5, equal_nan=True)


def _check_logits(logits: Any, n: int, n_classes: int) -> None:
    if not isinstance(logits, Tensor) or logits.shape != (n, n_classes):
        raise PluginError(
            f"forward returned {_kind(logits)} for {n} images; it must return logits of shape"
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


@dataclass(frozen=True)
class Kept:
    """A copy of all that a defense consists of, to tell whether it changed and to set it back.

    ``modes`` are its parts' (:func:`modes`) and ``modules`` the parts with their mode and their
    tables; ``tensors`` its parameters and buffers by name: each itself, a copy, and whether it
    takes a gradient.
    """

    defense: Defense
    modes: dict[str, bool]
    modules: list[tuple[nn.Module, bool, dict[str, dict[str, Any]]]]
    tensors: dict[str, tuple[Tensor, Tensor, bool]]

    @classmethod
    def of(cls, defense: Defense) -> "Kept":
        """Copy ``defense`` as it is."""
        return cls(
            defense,
            modes(defense),
            [
                (module, module.training, {name: dict(getattr(module, name)) for name in tables})
                for module in defense.modules()
                # A scripted module keeps its tables where Python cannot change them.
                for tables in [() if isinstance(module, torch.jit.ScriptModule) else TABLES]
            ],
            {
                name: (tensor, tensor.detach().clone(), tensor.requires_grad)
                for name, tensor in _tensors(defense).items()
            },
        )

    def check(self, who: str, settings: dict[str, Any]) -> None:
        """Raise a PluginError if ``who`` changed the model, or the process's ``settings``."""
        _check_modes(self.defense, self.modes, who)
        now = _tensors(self.defense)
        others = [name for name in now if name not in self.tensors]
        for name, (_, before, _) in self.tensors.items():
            if name not in now or not _same(now[name], before):
                others.append(name)
        if others:
            raise PluginError(
                f"{who} changed weights or buffers of the model ({_some(others)}); in evaluation"
                " mode nothing may change them"
            )
        if changed := changed_settings(settings):
            raise PluginError(f"{who} changed {changed} for the whole process; it must not")

    def restore(self) -> None:
        """Set the defense back to what it was."""
        for module, training, tables in self.modules:
            module.training = training
            for name, table in tables.items():
                own = getattr(module, name)
                own.clear()
                own.update(table)
        for tensor, before, takes_gradient in self.tensors.values():
            if tensor.shape != before.shape or tensor.dtype != before.dtype:
                tensor.data = before.clone()
            elif not _same(tensor, before):
                with torch.no_grad():
                    tensor.copy_(before)
            if tensor.requires_grad != takes_gradient:
                tensor.requires_grad_(takes_gradient)


def _tensors(defense: Defense) -> dict[str, Tensor]:
    return {**dict(defense.named_parameters()), **dict(defense.named_buffers())}


def _same(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors are equal, NaN in the same places included."""
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _kind(value: Any) -> str:
    """Return in words what ``value`` is: a tensor by dtype and shape, else its type."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
