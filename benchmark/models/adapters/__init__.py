"""A trained model of the user's, of whatever kind, in the form of a defense."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from benchmark.datasets.info import DatasetInfo
from benchmark.errors import UsageError, unknown_name
from benchmark.hashing import digest
from benchmark.models.adapters.function import FunctionDefense, asker, function_defense
from benchmark.models.adapters.module import ModuleDefense, module_defense
from benchmark.models.adapters.outputs import OUTPUTS, Expected
from benchmark.models.answer_form import AnswerForm
from benchmark.models.defense import Defense
from benchmark.models.weights import weights_of

Channels = Sequence[float] | float | None


def as_defense(
    model: Any,
    few: Tensor,
    *,
    info: Callable[[int], DatasetInfo],
    n_classes: int | None = None,
    n_labels: int | None = None,
    outputs: str = "auto",
    mean: Channels = None,
    std: Channels = None,
    device: str = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> Defense:
    """Return ``model`` as a defense in evaluation mode, which the harness can attack.

    Args:
        model: an ``nn.Module`` from images to logits, a :class:`Defense`, or a callable from a
            NumPy array to scores or labels.
        few: a few images (k, C, H, W), float32 in [0, 1], that it is asked about first.
        info: the dataset's description for a number of classes; UsageError where labels do not fit.
        n_classes: where the answers do not tell.
        n_labels: how many classes the labels of the data show.
        outputs: one of :data:`~benchmark.models.adapters.outputs.OUTPUTS`.
        mean: what the model subtracts from each channel, or one number for all.
        std: what it divides by then.
        device: "auto", the model's own; "cpu" or "cuda", where a copy goes.
        say: is told, line by line, what was noticed.

    Raises:
        UsageError: in one line, why the model will not do.
    """
    if outputs not in OUTPUTS:
        raise unknown_name("outputs", outputs, OUTPUTS)
    if n_classes is not None and n_classes < 2:
        raise UsageError(f"n_classes is {n_classes}: an attack needs two classes or more")
    channels = few.shape[1]
    scaling = _channels("mean", mean, channels), _channels("std", std, channels)
    normalises = mean is not None or std is not None
    expected = Expected(info, n_classes, n_labels, outputs, say)
    if isinstance(model, Defense):
        if normalises or outputs != "auto":
            raise UsageError("a Defense normalises its own input: leave mean, std and outputs out")
        return _own(model, few, info)
    if isinstance(model, nn.Module):
        found = module_defense(
            model, few, mean=scaling[0], std=scaling[1], device=device, expected=expected
        )
    else:
        ask = asker(model, outputs)
        if ask is None:
            raise UsageError(f"model: {_what(model)}")
        if normalises:
            raise UsageError("a function normalises its own input: leave mean and std out")
        found = function_defense(ask, few, expected)
    if outputs == "probabilities":
        found.answer_form = AnswerForm("probabilities")
    return found.eval()


def fingerprint(defense: Defense, answers: bytes = b"") -> str:
    """Return a digest of what a user's model is: its structure, weights and how it normalises.

    Of a function nothing is known but its name; ``answers`` tell it from another.
    """
    if isinstance(defense, FunctionDefense):
        named = getattr(defense.ask, "__qualname__", type(defense.ask).__qualname__)
        return digest("function", named, defense.gives, answers.hex())
    inner: nn.Module = defense.module if isinstance(defense, ModuleDefense) else defense
    parts = ["module", type(inner).__qualname__, repr(inner), weights_of(defense)]
    if isinstance(defense, ModuleDefense):
        scaling = [defense.mean.flatten().tolist(), defense.std.flatten().tolist()]
        parts += [repr(scaling), defense.gives, defense.answer_form.kind]
    return digest(*parts, answers.hex())


@contextmanager
def left_alone(model: Any) -> Iterator[None]:
    """Bring a module back into the modes, and its weights to the gradients, that it had."""
    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [(part, part.training) for part in parts]
    weights = list(model.parameters()) if parts else []
    trained = [(p, p.requires_grad, p.grad) for p in weights]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        for p, requires, gradient in trained:
            p.requires_grad_(requires)
            p.grad = gradient


def _own(defense: Defense, few: Tensor, info: Callable[[int], DatasetInfo]) -> Defense:
    """Return a Defense as it is, if it is one for images like these."""
    wanted, shape = defense.info, tuple(few.shape[1:])
    if tuple(wanted.shape) != shape:
        raise UsageError(f"the defense takes images of shape {wanted.shape}, and these are {shape}")
    info(wanted.n_classes)
    return defense.eval()


def _channels(name: str, value: Channels, channels: int) -> tuple[float, ...]:
    """Return the mean or std of each channel, or one for all."""
    if value is None:
        return (0.0,) if name == "mean" else (1.0,)
    listed = getattr(value, "tolist", lambda: value)()
    try:
        found = tuple(float(x) for x in (listed if isinstance(listed, Sequence) else [listed]))
    except (TypeError, ValueError):
        raise UsageError(f"{name}: {value!r} is not a number, nor one per channel") from None
    if len(found) not in (1, channels):
        raise UsageError(f"{name} has {len(found)} numbers, and the images {channels} channels")
    if not all(abs(x) < float("inf") for x in found):
        raise UsageError(f"{name}: {value!r} is not finite")
    if any(abs(x) > 2 for x in found):
        scaled = ", ".join(f"{x / 255:.4g}" for x in found)
        raise UsageError(
            f"{name} = {', '.join(f'{x:g}' for x in found)} is meant for pixels of 0 to 255, and"
            f" images here are in [0, 1]: give {scaled}"
        )
    if name == "std" and any(x <= 0 for x in found):
        raise UsageError(f"std must be above 0, got {value!r}")
    return found


def _what(model: Any) -> str:
    if isinstance(model, type):
        return f"{model.__name__} is a class; hand over an instance of it: {model.__name__}(...)"
    if isinstance(model, str):
        return (
            f"{model!r} is a word; hand over the model itself, or use the command evaluate --model"
        )
    if isinstance(model, dict):
        return "a state_dict holds weights alone; build the model and load them into it"
    return (
        f"{type(model).__name__} is neither an nn.Module nor callable; hand over a model, or a"
        " function from a NumPy array to scores or labels"
    )
