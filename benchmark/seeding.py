"""Reproducible randomness for code that takes no generator (layers' initial weights, dropout).

Our own code passes ``torch.Generator`` objects. What cannot take one runs inside
:func:`seeded`, which leaves the caller's global random state as it was. A defense may keep
generators of its own: named there, it draws from those as reproducibly as from the global ones.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmark.hashing import derive_seed

DEPTH = 4
"""How many containers and objects deep a module's attributes are searched for generators."""

MOST = 1000
"""The most items of a container that are searched (docs/constants.md)."""

UNREPEATABLE = (
    "its noise does not come from a generator that the harness can seed: its numbers cannot be"
    " repeated"
)
"""What is said of a defense that answers differently under one seed."""

_around: list[tuple[str, Any]] = []
"""The generators of the defenses that the blocks around name: inner blocks seed them as well."""


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu", *defenses: nn.Module) -> Iterator[None]:
    """Seed Python, NumPy and torch with ``seed`` inside the block and restore them after it.

    The generators that ``defenses`` keep (:func:`own_generators`) are seeded and restored as well,
    by this block and by every one inside it, whether or not that names them again.
    """
    device = torch.device(device)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    cuda = [device] if device.type == "cuda" else []
    kept = [pair for defense in defenses for pair in own_generators(defense)]
    known = {id(own) for _, own in _around}
    found = list({id(own): (name, own) for name, own in kept if id(own) not in known}.values())
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        stack.callback(np.random.set_state, numpy_state)
        stack.callback(random.setstate, python_state)
        _around.extend(found)
        stack.callback(_forget, len(found))
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        for name, own in _around:
            stack.callback(_seed(own, derive_seed(seed, name)))
        yield


def _forget(count: int) -> None:
    del _around[len(_around) - count :]


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator on ``device``, seeded."""
    return torch.Generator(device=device).manual_seed(seed)


def own_generators(defense: nn.Module) -> list[tuple[str, Any]]:
    """Return the generators that ``defense`` keeps, each once, with where it keeps them.

    torch's, NumPy's (``Generator`` and ``RandomState``) and Python's, as attributes of its modules
    or their classes, or inside lists, tuples, dicts and plain objects there. One that is in
    nobody's attributes, such as a global of the defense's module or a closure's, is not found.
    """
    found: dict[int, tuple[str, Any]] = {}
    seen: set[int] = set()
    for path, module in defense.named_modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                _look(f"{path}.{name}", value, DEPTH, found, seen)
        for cls in type(module).__mro__[: type(module).__mro__.index(nn.Module)]:
            for name, value in vars(cls).items():
                if _is_generator(value):
                    _look(f"{path}.{name}", value, DEPTH, found, seen)
    return list(found.values())


def _look(
    name: str, value: Any, depth: int, found: dict[int, tuple[str, Any]], seen: set[int]
) -> None:
    if isinstance(value, _SIMPLE) or id(value) in seen:
        return
    seen.add(id(value))
    if _is_generator(value):
        found[id(value)] = name, value
        return
    if not depth or isinstance(value, _CODE):
        return
    inside: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        inside = list(value.items())[:MOST]
    elif isinstance(value, list | tuple | set | frozenset):
        inside = list(enumerate(value))[:MOST]
    elif hasattr(value, "__dict__"):
        inside = list(vars(value).items())[:MOST]
    for key, item in inside:
        _look(f"{name}.{key}", item, depth - 1, found, seen)


_CODE = (FunctionType, BuiltinFunctionType, MethodType, ModuleType)
_SIMPLE = (bool, int, float, complex, str, bytes, type(None), torch.Tensor, np.ndarray, type)


def _is_generator(value: Any) -> bool:
    kinds = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
    # The system's own source of randomness has no state.
    return isinstance(value, kinds) and not isinstance(value, random.SystemRandom)


def _seed(own: Any, seed: int) -> Callable[[], object]:
    """Seed a generator; return what sets it back to where it was."""
    if isinstance(own, torch.Generator):
        at = own.get_state()
        own.manual_seed(seed)
        return lambda: own.set_state(at)
    if isinstance(own, random.Random):
        state = own.getstate()
        own.seed(seed)
        return lambda: own.setstate(state)
    # NumPy's two wrap a bit generator, whose state is a mapping.
    bits = own.bit_generator if isinstance(own, np.random.Generator) else own._bit_generator
    before = bits.state
    bits.state = type(bits)(seed).state

    def restore() -> None:
        bits.state = before

    return restore
