"""What a defense remembers: weights, buffers and modes, and whatever its Python objects hold.

A counter, a list, a dictionary or a queue of earlier questions is state as much as a buffer is,
and no ``state_dict`` knows of it. Followed are the attributes of every module and of its class, and
what lists, tuples, sets, queues, dictionaries, arrays, tensors and objects there hold in turn; not
random generators, whose state is noise and not memory, and not what a closure keeps.
"""

from collections import deque
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LARGE = 2**20
"""Tensors of more elements are compared only where torch counted a change: it may be a dataset."""

TABLES = frozenset(vars(nn.Module())) - {"training"}
"""Torch's own attributes of a module: its weights and parts, which are followed by themselves, and
its hooks, which belong to who watches."""

PLAIN = (bool, int, float, complex, str, bytes, type(None))


@dataclass(frozen=True)
class _Kept:
    """Something that can change: its ``name``, and whether and how it is set back."""

    name: str
    weight: bool
    changed: Callable[[], bool]
    restore: Callable[[], None]


class State:
    """A copy of all that ``defense`` remembers now."""

    def __init__(self, defense: nn.Module) -> None:
        self._kept: list[_Kept] = []
        self._seen: dict[int, Any] = {}  # holds what was seen, so that no identity is used twice
        for name, module in defense.named_modules():
            self._module(name, module)

    def changed(self) -> tuple[list[str], list[str]]:
        """Return the names of what is another now: weights, buffers and modes, and the rest."""
        now = [kept for kept in self._kept if kept.changed()]
        return [k.name for k in now if k.weight], [k.name for k in now if not k.weight]

    @torch.no_grad()
    def restore(self) -> None:
        """Set everything back, in place."""
        # Containers first: what is in them is what they held.
        for kept in self._kept:
            if kept.changed():
                kept.restore()

    # --- what is followed -------------------------------------------------------------------------

    def _module(self, name: str, module: nn.Module) -> None:
        prefix = f"{name}." if name else ""
        for table in (module._parameters, module._buffers):
            self._mapping(f"{prefix}weights", table, weight=True)
            for key, tensor in table.items():
                if tensor is not None:
                    self._tensor(prefix + key, tensor, weight=True)
        self._attribute(prefix, vars(module), "training", module.training, weight=True)
        self._attributes(prefix, vars(module), TABLES | {"training"})
        for cls in type(module).__mro__:
            if cls.__module__.partition(".")[0] not in ("torch", "builtins", "abc", "typing"):
                self._class(cls)

    def _class(self, cls: type) -> None:
        if id(cls) in self._seen:
            return
        self._seen[id(cls)] = cls
        for key, value in list(vars(cls).items()):
            if key.startswith("__") or callable(value):
                continue
            if isinstance(value, PLAIN):

                def restore(key: str = key, value: Any = value) -> None:
                    setattr(cls, key, value)

                def changed(key: str = key, value: Any = value) -> bool:
                    return _differ(vars(cls).get(key), value)

                self._kept.append(_Kept(f"{cls.__name__}.{key}", False, changed, restore))
            else:
                self._follow(f"{cls.__name__}.{key}", value)

    def _attributes(
        self, prefix: str, own: MutableMapping[str, Any], left_out: frozenset[str]
    ) -> None:
        """Follow an object's attributes; those that it gains are taken away again."""
        before = {key: value for key, value in own.items() if key not in left_out}
        for key, value in before.items():
            self._attribute(prefix, own, key, value)

        def gained() -> list[str]:
            return [key for key in own if key not in before and key not in left_out]

        def forget() -> None:
            for key in gained():
                del own[key]

        name = f"{prefix}new attributes"
        self._kept.append(_Kept(name, False, lambda: bool(gained()), forget))

    def _attribute(
        self,
        prefix: str,
        own: MutableMapping[str, Any],
        key: str,
        value: Any,
        *,
        weight: bool = False,
    ) -> None:
        def restore() -> None:
            own[key] = value

        def changed() -> bool:
            return key not in own or _differ(own[key], value)

        self._kept.append(_Kept(prefix + key, weight, changed, restore))
        self._follow(prefix + key, value)

    def _follow(self, name: str, value: Any) -> None:
        """Follow what ``value`` holds, if it can change."""
        if isinstance(value, PLAIN) or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            self._tensor(name, value, weight=False)
        elif isinstance(value, nn.Module):  # one that the defense hides from torch, as in a list
            for inner, module in value.named_modules():
                self._module(f"{name}.{inner}" if inner else name, module)
        elif isinstance(value, np.ndarray):
            self._array(name, value)
        elif isinstance(value, dict):
            self._mapping(name, value)
            for key, item in list(value.items()):
                self._follow(f"{name}[{key!r}]", item)
        elif isinstance(value, list | deque | set | tuple):
            if not isinstance(value, tuple):
                self._container(name, value)
            for item in list(value):
                self._follow(name, item)
        elif _is_object(value):
            self._attributes(f"{name}.", vars(value), frozenset())

    def _tensor(self, name: str, tensor: Tensor, *, weight: bool) -> None:
        before, version = tensor.detach().clone(), tensor._version

        def changed() -> bool:
            if tensor.numel() > LARGE and tensor._version == version:
                return False
            return not _equal(tensor, before)

        def restore() -> None:
            # In place unless it has another shape now; past autograd either way.
            if tensor.shape == before.shape and tensor.dtype == before.dtype:
                tensor.detach().copy_(before)
            else:
                tensor.data = before.clone()

        self._kept.append(_Kept(name, weight, changed, restore))

    def _array(self, name: str, array: np.ndarray) -> None:
        before = array.copy()

        def restore() -> None:
            array[...] = before

        def changed() -> bool:
            return array.tobytes() != before.tobytes()

        self._kept.append(_Kept(name, False, changed, restore))

    def _mapping(self, name: str, own: Any, *, weight: bool = False) -> None:
        before = dict(own)

        def changed() -> bool:
            return own.keys() != before.keys() or any(_differ(own[key], before[key]) for key in own)

        def restore() -> None:
            own.clear()
            own.update(before)

        self._kept.append(_Kept(name, weight, changed, restore))

    def _container(self, name: str, own: Any) -> None:
        before = list(own)

        def changed() -> bool:
            now = list(own)
            if isinstance(own, set):
                return own != set(before)
            return len(now) != len(before) or any(map(_differ, now, before))

        def restore() -> None:
            own.clear()
            own.update(before) if isinstance(own, set) else own.extend(before)

        self._kept.append(_Kept(name, False, changed, restore))


def _is_object(value: Any) -> bool:
    """Tell whether ``value`` is an object with attributes of its own: no function, class or module,
    and no generator of random numbers."""
    kind = type(value)
    outside = kind.__module__.partition(".")[0] not in ("torch", "numpy", "random", "builtins")
    return (
        outside
        and not isinstance(value, type)
        and not callable(value)
        and hasattr(value, "__dict__")
    )


def _differ(one: Any, other: Any) -> bool:
    """Tell whether two values are not the same: plain ones by value, others by identity."""
    if isinstance(one, PLAIN) and isinstance(other, PLAIN):
        return type(one) is not type(other) or not (one == other or (one != one and other != other))
    return one is not other


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())
