"""A copy of a defense as it is: to tell whether asking it changed it, and to restore it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import PluginError
from benchmark.models.defense import Defense
from benchmark.plugins.process_settings import changed_settings

TABLES = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
"""Where a torch module keeps what it consists of."""


def modes(defense: Defense) -> dict[str, bool]:
    """Return which parts of ``defense`` are in training mode, by name."""
    return {name: module.training for name, module in defense.named_modules()}


def check_modes(defense: Defense, before: Mapping[str, bool], who: str) -> None:
    """Raise a PluginError if ``who`` switched a part's mode since :func:`modes` gave ``before``."""
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


@dataclass(frozen=True)
class Kept:
    """A copy of all that a defense consists of, to tell whether it changed and to restore it.

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
        check_modes(self.defense, self.modes, who)
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
        """Restore the defense to what it was."""
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
