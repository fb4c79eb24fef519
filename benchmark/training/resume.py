"""Where a training stands, kept after its epochs so that a killed one goes on from there.

A defense's ``fit`` may train in phases (pretraining, a GAN, a classifier): its calls of
:func:`benchmark.training.loop.train` and :func:`once`, numbered in order. Each has a file beside
the cached model, which the trained model replaces. ``fit`` itself runs again from the start, so
what stands between its phases must do the same every time; a phase that was finished returns at
once.

A file is safetensors, with everything that is no tensor as JSON in its header and a SHA-256 over
both. One file, so that no kill can part them.
"""

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from benchmark.errors import cause
from benchmark.hashing import Buffer, digest_bytes
from benchmark.io.atomic import write_atomic
from benchmark.progress import Progress

SHARE = 0.05
"""The share of the time that may go into writing: an epoch that comes sooner is not kept."""


class Stateful(Protocol):
    """A model, an optimiser, a schedule, or whatever else has a state of plain data and tensors."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Take over a state; its tensors are on the CPU."""


Part = Stateful | torch.Generator


@dataclass
class Keeper:
    """The files of one model's training: ``stem`` followed by a phase's number."""

    stem: Path
    name: str
    progress: Progress
    phases: int = 0
    works: bool = True

    def path(self, phase: int) -> Path:
        """Return the file of a phase, counted from 1."""
        return self.stem.with_name(f"{self.stem.name}.partial-{phase}.safetensors")

    def say(self, text: str) -> None:
        """Tell the user one line about this training."""
        self.progress.say(f"{self.name}: {text}")

    def discard(self, first: int = 1) -> None:
        """Delete the files of the phases from ``first`` on, and what a kill left of them."""
        for path in self.stem.parent.glob(f"{self.stem.name}.partial-*"):
            number = path.name.removeprefix(f"{self.stem.name}.partial-").partition(".")[0]
            if number.isdecimal() and int(number) >= first:
                _delete(path)
        for path in self.stem.parent.glob(f".{self.stem.name}.*-*"):  # unfinished writes
            _delete(path)


def _delete(path: Path) -> None:
    with suppress(OSError):  # what stays is overwritten, or refused as it was
        path.unlink()


_keeper: ContextVar[Keeper | None] = ContextVar("keeper", default=None)


@contextmanager
def keeping(stem: Path, name: str, progress: Progress) -> Iterator[Keeper]:
    """Keep the states of the trainings inside the block in files that begin with ``stem``."""
    keeper = Keeper(stem, name, progress)
    token = _keeper.set(keeper)
    try:
        yield keeper
    finally:
        _keeper.reset(token)


class Phase:
    """One phase: its epochs so far, and everything that decides the next."""

    def __init__(
        self,
        parts: Sequence[Part],
        state: Sequence[Part] | None,
        *,
        epochs: int,
        device: torch.device,
    ) -> None:
        """Begin the next phase, of so many ``epochs``, of the training that is going on.

        With a ``state`` of None nothing is known of what the phase depends on besides ``parts``
        and the global random state, so it is neither kept nor taken up.
        """
        self.keeper = _keeper.get() if state is not None else None
        self.parts = [_Everywhere(device), *parts, *(state or ())]
        self.total = epochs
        self.number = 0
        self._kept_at, self._cost = -math.inf, 0.0
        running = _keeper.get()
        if running is not None:
            running.phases += 1
            self.number = running.phases
            if state is None:
                running.discard(self.number)

    def restore(self) -> tuple[list[dict[str, float]], float]:
        """Take up what was kept; return the log of the epochs done, and their seconds.

        What cannot be used is said, and costs this phase and those after it: they start anew.
        """
        if self.keeper is None:
            return [], 0.0
        path = self.keeper.path(self.number)
        if not path.exists():
            self.keeper.discard(self.number)
            return [], 0.0
        before = _encoded(self.parts)
        try:
            about, tensors = _read(path)
            if about["stem"] != self.keeper.stem.name or about["total"] != self.total:
                raise ValueError("it is another training's")
            epochs, seconds = list(about["epochs"]), float(about["seconds"])
            _load(self.parts, about["parts"], tensors)
        except Exception as error:  # whatever a damaged file, or a part of a plugin's, raises
            _load(self.parts, *before)
            self.keeper.say(f"cannot go on from {path} ({cause(error)}); training starts anew")
            self.keeper.discard(self.number)
            return [], 0.0
        which = f" of phase {self.number}" if self.number > 1 else ""
        self.keeper.say(f"training goes on after epoch {len(epochs)} of {self.total}{which}")
        return epochs, seconds

    def keep(self, epochs: list[dict[str, float]], seconds: float) -> None:
        """Keep the state after an epoch, unless the last one was kept only a moment ago."""
        start = time.perf_counter()
        finished = len(epochs) == self.total
        if self.keeper is None or not self.keeper.works:
            return
        if not finished and (start - self._kept_at) * SHARE < self._cost:
            return
        try:
            parts, tensors = _encoded(self.parts)
            about = {
                "stem": self.keeper.stem.name,
                "total": self.total,
                "epochs": epochs,
                "seconds": seconds,
                "parts": parts,
            }
            _write(self.keeper.path(self.number), about, tensors)
        except (OSError, TypeError) as error:
            self.keeper.works = False
            self.keeper.say(
                f"the state of training is not kept ({cause(error)}); killed, it starts anew"
            )
        self._kept_at = time.perf_counter()
        self._cost = self._kept_at - start


def once(compute: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float]:
    """Return what ``compute`` gives, on ``device``, and the seconds that it took: a phase.

    For work between two trainings that is long enough to be kept.
    """
    start = time.perf_counter()
    result = _Result()
    phase = Phase([result], (), epochs=1, device=device)
    epochs, seconds = phase.restore()
    if not epochs:
        result.value = compute()
        seconds = time.perf_counter() - start
        phase.keep([{"epoch": 1}], seconds)
    return result.value.to(device), seconds


class _Result:
    def __init__(self) -> None:
        self.value = torch.empty(0)

    def state_dict(self) -> Mapping[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self.value = state["value"]


class _Everywhere:
    """The random states that torch, NumPy and Python hold for the whole process."""

    def __init__(self, device: torch.device) -> None:
        self.gpu = device if device.type == "cuda" else None

    def state_dict(self) -> Mapping[str, Any]:
        drawn: Any = np.random.get_state()
        name, keys, *rest = drawn
        return {
            "torch": torch.get_rng_state(),
            "gpu": None if self.gpu is None else torch.cuda.get_rng_state(self.gpu),
            "numpy": (name, keys.tolist(), *rest),
            "python": random.getstate(),
        }

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        torch.set_rng_state(state["torch"])
        if self.gpu is not None:
            torch.cuda.set_rng_state(state["gpu"], self.gpu)
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, np.array(keys, np.uint32), *rest))
        random.setstate(state["python"])


# --- between objects and a file --------------------------------------------------------------


def _encoded(parts: Sequence[Part]) -> tuple[list[Any], dict[str, Tensor]]:
    """Return the parts' states as plain data and the tensors that these name, copied."""
    tensors: dict[str, Tensor] = {}
    states = [
        part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
        for part in parts
    ]
    return [_taken_apart(state, tensors) for state in states], tensors


def _load(parts: Sequence[Part], encoded: Sequence[Any], tensors: Mapping[str, Tensor]) -> None:
    for part, plain in zip(parts, encoded, strict=True):
        state = _put_together(plain, tensors)
        if isinstance(part, torch.Generator):
            part.set_state(state)
        else:
            part.load_state_dict(state)


def _taken_apart(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return ``value`` as JSON holds it, its tensors put aside; TypeError for anything else."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        value = value.detach()
        tensors[name] = value.cpu().clone(memory_format=torch.contiguous_format)
        # The order in memory is kept: rounding may hang on it.
        return {"tensor": name, "strides": list(torch.empty_like(value, device="meta").stride())}
    if isinstance(value, Mapping):
        return {"items": [[key, _taken_apart(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_taken_apart(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_taken_apart(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a state holds a {type(value).__name__}")


def _put_together(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_put_together(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "items" in value:
        return {key: _put_together(item, tensors) for key, item in value["items"]}
    if "tuple" in value:
        return tuple(_put_together(item, tensors) for item in value["tuple"])
    found = tensors[value["tensor"]]
    laid_out = torch.empty_strided(found.shape, value["strides"], dtype=found.dtype)
    return laid_out.copy_(found)


def _write(path: Path, about: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    text = json.dumps(about)
    write_atomic(path, save(tensors, {"state": text, "sha256": _checksum(text, tensors)}))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what :func:`_write` wrote; ValueError if its checksum does not match."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    if header.get("sha256") != _checksum(header.get("state", ""), tensors):
        raise ValueError("its checksum does not match")
    about: dict[str, Any] = json.loads(header["state"])
    return about, tensors


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    return digest_bytes(_buffers(text, tensors))


def _buffers(text: str, tensors: Mapping[str, Tensor]) -> Iterator[Buffer]:
    yield text.encode()
    for name in sorted(tensors):
        tensor = tensors[name]
        yield f"\x1f{name} {tensor.dtype} {tuple(tensor.shape)}\x1f".encode()
        yield tensor.reshape(-1).view(torch.uint8).numpy().data
