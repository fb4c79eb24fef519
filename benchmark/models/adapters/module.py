"""A trained ``nn.Module`` of the user's as a defense."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.datasets.info import DatasetInfo
from benchmark.errors import UsageError, first_line
from benchmark.models.adapters.outputs import Expected, one_hot, scores_in
from benchmark.models.defense import Defense, Gives

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class ModuleDefense(Defense):
    """A model that normalises as told, in the precision of its own weights, and answers float32.

    ``mean`` and ``std`` are per channel, or one number each. The user's module is a part of it,
    not a copy, unless it had to move to another device.
    """

    def __init__(
        self,
        info: DatasetInfo,
        module: nn.Module,
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        dtype: torch.dtype = torch.float32,
        gives: Gives = "gradients",
        stochastic: bool = False,
    ) -> None:
        super().__init__(info)
        self.module = module
        self.normalises = (*mean, *std) != (0.0, 1.0)
        self.dtype = dtype
        self.gives = gives
        self.stochastic = stochastic  # type: ignore[misc]
        if gives != "gradients":
            self.differentiable = False  # type: ignore[misc]
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", per_channel(mean), persistent=False)
        self.register_buffer("std", per_channel(std), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) of images (N, C, H, W) in [0, 1]; float64 in double precision."""
        answer = scores_in(self.module(self.normalised(x)), len(x))
        if answer.dim() == 1:
            answer = one_hot(answer, self.info.n_classes)
        elif self.gives == "labels":
            answer = one_hot(answer.argmax(1), self.info.n_classes)
        return answer if answer.dtype == torch.float64 else answer.float()

    def normalised(self, x: Tensor) -> Tensor:
        """Return what the module is given for images (N, C, H, W) in [0, 1]."""
        if self.normalises:
            x = (x - self.mean) / self.std
        return x.to(self.dtype)


def per_channel(values: Sequence[float]) -> Tensor:
    """Return one number, or one per channel, in the shape of a batch of images."""
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def unwrapped(module: nn.Module, say: Callable[[str], None]) -> nn.Module:
    """Return the module inside DataParallel and torch.compile, and say so.

    An attack is many passes over ever fewer images: compiled code would be compiled for each size.
    """
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(inner, nn.Module):
            say("the model is compiled: the module inside is evaluated, which answers the same")
        elif isinstance(module, WRAPPERS):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def placed(
    module: nn.Module, device: str, say: Callable[[str], None]
) -> tuple[nn.Module, torch.device, torch.dtype]:
    """Return the module on ``device`` ("auto": its own), that device, and its weights' precision.

    A module that is elsewhere is copied there. UsageError for one without weights to speak of
    (meta), on several devices, or on one that the harness cannot use.
    """
    tensors = [*module.parameters(), *module.buffers()]
    devices = sorted({str(tensor.device) for tensor in tensors})
    if "meta" in devices:
        raise UsageError("the model's weights are on the device meta, which holds none: load them")
    if len(devices) > 1:
        raise UsageError(
            f"the model lies on several devices ({', '.join(devices)}): move it to one"
        )
    own = torch.device(devices[0] if devices else "cpu")
    wanted = own if device == "auto" else torch.device(_device(device))
    if wanted.type not in ("cpu", "cuda"):
        raise UsageError(f"the model is on {wanted}; the harness computes on cpu or cuda: move it")
    floating = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()}
    if len(floating) > 1:
        say("the model's weights differ in precision: images are cast to the lowest")
    dtype = min(floating, key=_size) if floating else torch.float32
    if wanted.type != own.type and tensors:
        say(f"the model is copied from {own} to {wanted}")
        try:
            module = copy.deepcopy(module).to(wanted)
        except Exception as error:
            raise UsageError(
                f"the model cannot be copied to {wanted} ({first_line(error)}): move it there"
            ) from None
    return module, wanted, dtype


def _device(asked: str) -> str:
    if asked not in ("cpu", "cuda"):
        raise UsageError(f"device {asked!r}: it is auto, cpu or cuda")
    if asked == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda': this machine has no usable CUDA device; use cpu, or auto")
    return asked


def _size(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def first_answer(ask: Callable[[Tensor], Any], few: Tensor, where: str) -> Tensor:
    """Return what a model says of a few images; whatever it raises becomes one line."""
    try:
        with torch.no_grad():
            return scores_in(ask(few), len(few))
    except UsageError:
        raise
    except Exception as error:
        shape = tuple(few.shape)
        raise UsageError(
            f"{where} failed on images of shape {shape} in [0, 1] ({first_line(error)}); check the"
            " number of channels, the size that it expects (resize, crop), and its weights"
        ) from None


def module_defense(
    module: nn.Module,
    few: Tensor,
    *,
    expected: Expected,
    mean: Sequence[float],
    std: Sequence[float],
    device: str,
) -> Defense:
    """Bring a module into the form of a defense (:func:`benchmark.models.adapters.as_defense`)."""
    say, n_classes, info = expected.say, expected.n_classes, expected.info
    module = unwrapped(module, say)
    scripted = isinstance(module, torch.jit.ScriptModule)
    if not scripted and type(module).forward is nn.Module.forward:
        raise UsageError(f"{type(module).__name__} has no forward: hand over the whole model")
    module, place, dtype = placed(module, device, say)
    if dtype != torch.float32:
        say(f"the model's weights are {_word(dtype)}: images are cast to it, answers to float32")
    few = few.to(place)
    modes = {part: part.training for part in module.modules()}
    if any(modes.values()):
        say("the model was in training mode: it is evaluated in evaluation mode")
    asked = (few - per_channel(mean).to(place)) / per_channel(std).to(place)
    module.eval()
    try:
        answer = first_answer(module, asked.to(dtype), "the model")
        again = first_answer(module, asked.to(dtype), "the model")
    finally:
        for part, training in modes.items():
            part.training = training
    if not answer.isfinite().all():
        raise UsageError(
            "the model answers NaN or infinity to images in [0, 1]; check its weights, and mean and"
            " std"
        )
    noisy = not torch.allclose(answer.double(), again.double(), rtol=1e-3, atol=1e-5)
    if noisy:
        say("the model answers the same images differently twice: it is attacked as a random one")
    labels = answer.dim() == 1 or expected.outputs == "labels"
    seen = max(int(answer.max()) + 1, expected.n_labels or 2)
    k = n_classes or (seen if answer.dim() == 1 else answer.shape[1])
    if answer.dim() == 2 and answer.shape[1] != k:
        raise UsageError(f"n_classes is {k}, and the model answers {answer.shape[1]} scores")
    return ModuleDefense(
        info(k),
        module,
        mean=mean,
        std=std,
        dtype=dtype,
        gives="labels" if labels else "scores" if expected.outputs == "scores" else "gradients",
        stochastic=noisy,
    ).to(place)
