"""The process's own settings, which every plugin can change and which belong to none.

A plugin that sets torch's default dtype, the number of threads or a global seed does so for every
cell after its own. What it leaves behind is taken back (:func:`contained`), and where it would
spoil the measurement itself, it is found (:func:`settings_now`, :func:`seeded_by`).
"""

import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch

from benchmark.seeding import seeded

Setting = tuple[Callable[[], Any], Callable[[Any], object]]


def _set_default_device(device: torch.device) -> None:
    # None, not "cpu", which would leave a mode on that every operation passes through.
    torch.set_default_device(None if device.type == "cpu" else device)


SPOILING: Mapping[str, Setting] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (torch.get_default_device, _set_default_device),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "whether gradients are recorded": (torch.is_grad_enabled, torch.set_grad_enabled),
}
"""A change of these while cells are measured changes what is measured, or how fast."""

OTHERS: Mapping[str, Setting] = {
    "deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "the precision of matrix products": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "the recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "the working directory": (os.getcwd, os.chdir),
}


def settings_now() -> dict[str, Any]:
    """Return the settings that nobody may change while cells are measured, by name."""
    return {name: read() for name, (read, _) in SPOILING.items()}


def changed_settings(before: Mapping[str, Any]) -> str:
    """Say which of the settings ``before`` are others now; "" if none is."""
    now = settings_now()
    return ", ".join(
        f"{name} ({was} before, {now[name]} now)"
        for name, was in before.items()
        if now[name] != was
    )


@contextmanager
def contained() -> Iterator[None]:
    """Leave the process's settings, warning filters and random states as they were before."""
    settings = {**SPOILING, **OTHERS}
    before: dict[str, Any] = {}
    for name, (read, _) in settings.items():
        with suppress(OSError):  # a working directory that was deleted
            before[name] = read()
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with warnings.catch_warnings(), np.errstate(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for name, was in before.items():
            read, write = settings[name]
            with suppress(OSError):
                if read() != was:
                    write(was)


def seeded_by(ask: Callable[[], object], device: torch.device) -> str:
    """Name the global generators that ``ask`` sets, where it should only draw; "" if none.

    Drawing leaves a state that depends on the one before; seeding leaves the same one.
    """
    left = []
    for seed in (1, 2):
        with seeded(seed, device):
            ask()
            left.append(_random_states(device))
    return ", ".join(name for name in left[0] if left[0][name] == left[1][name])


def _random_states(device: torch.device) -> dict[str, object]:
    states: dict[str, object] = {
        "torch": torch.get_rng_state().tolist(),
        "numpy.random": [repr(part) for part in np.random.get_state()],
        "random": random.getstate(),
    }
    if device.type == "cuda":
        states["torch.cuda"] = torch.cuda.get_rng_state(device).tolist()
    return states
