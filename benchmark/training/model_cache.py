"""The cache of trained models: safetensors and a JSON, keyed by everything that shaped them."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import platformdirs
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.parameter import is_lazy

from benchmark.errors import cause
from benchmark.hashing import digest_bytes
from benchmark.io.atomic import write_atomic
from benchmark.io.json_files import read_json, write_json
from benchmark.io.paths import plain_file
from benchmark.io.typed_json import build
from benchmark.models.defense import Defense, TrainingLog
from benchmark.results.model_records import ModelOrigin

_log = logging.getLogger(__name__)

HEADER_BYTES = 2**16
TENSOR_BYTES = 2**10
"""Bytes that a file of weights may hold beyond the weights: in all, and for each tensor."""


def cache_dir() -> Path:
    """Return the cache folder: BENCHMARK_CACHE_DIR, else the user's (XDG_CACHE_HOME)."""
    private = _private.get()
    if private is not None:
        return private
    named = os.environ.get("BENCHMARK_CACHE_DIR")
    return Path(named) if named else Path(platformdirs.user_cache_dir("defensebench"))


_private: ContextVar[Path | None] = ContextVar("private", default=None)


@contextmanager
def private_cache(wanted: bool = True) -> Iterator[None]:
    """Keep the block's models in a folder of their own, which is deleted after it, if ``wanted``.

    Every model is trained again, and the cache is neither read nor written.
    """
    if not wanted:
        yield
        return
    with TemporaryDirectory(prefix="defensebench-", ignore_cleanup_errors=True) as folder:
        token = _private.set(Path(folder))
        try:
            yield
        finally:
            _private.reset(token)


@dataclass(frozen=True)
class Checkpoints:
    """Trained models under ``folder``, one pair of files per key."""

    folder: Path

    def load(self, key: str, defense: Defense) -> TrainingLog | None:
        """Fill ``defense`` from the cache and return its log; None if it is not there.

        An entry that is damaged, or not what the checksums beside it say, counts as absent: a line
        says so, and it is trained again and overwritten.
        """
        weights, about = self._paths(key)
        if not about.exists():  # it is written last
            return None
        try:
            meta: _About = build(_About, read_json(about, any_number=True), about.name)
            if meta.key != key:
                raise ValueError("it is another model's")
            state = load(_read_weights(weights, meta.weights, defense.state_dict()))
            # Checked first: load_state_dict fills what fits before it raises, and training again
            # must start from the seeded weights.
            if _shapes(state) != _shapes(defense.state_dict()):
                raise ValueError("its weights are another network's")
        except (OSError, SafetensorError, ValueError, TypeError) as error:
            _log.warning("%s: damaged (%s), trained again", weights, cause(error))
            return None
        defense.load_state_dict(state)
        return meta.log

    def origin(self, key: str) -> ModelOrigin | None:
        """Return what the model of ``key`` came from; None if it is not there or not known."""
        about = self._paths(key)[1]
        try:
            meta: _About = build(_About, read_json(about, any_number=True), about.name)
        except (OSError, ValueError, TypeError):
            return None
        return meta.origin if meta.key == key else None

    def save(
        self, key: str, defense: Defense, log: TrainingLog, origin: ModelOrigin | None = None
    ) -> None:
        """Keep a trained ``defense`` with its log, atomically: weights first, then the JSON."""
        weights, about = self._paths(key)
        data = save(copied(defense))
        write_atomic(weights, data)
        meta = {"key": key, "weights": digest_bytes([data]), "log": log.to_dict()}
        if origin is not None:
            meta["origin"] = asdict(origin)
        write_json(about, meta)

    def _paths(self, key: str) -> tuple[Path, Path]:
        return self.folder / f"{key[:32]}.safetensors", self.folder / f"{key[:32]}.json"


def copied(defense: Defense) -> dict[str, Tensor]:
    """Return a copy, on the CPU, of the tensors of a model."""
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    return {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, t in defense.state_dict().items()
    }


def unfit(trained: Defense, fresh: Defense) -> str:
    """Say why the state of a ``trained`` model cannot be kept for a ``fresh`` one; "" if it can."""
    state, place = trained.state_dict(), fresh.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            return (
                f"state_dict holds {name} as {type(value).__name__}; only tensors can be kept:"
                " let get_extra_state return one, or use buffers"
            )
        if name not in place:
            return f"fit added {name} to state_dict; make it in __init__, in its final shape"
        if is_lazy(place[name]) or place[name].shape != value.shape:
            return f"fit changed the shape of {name}; make it in __init__, in its final shape"
        if place[name].dtype != value.dtype:
            return f"fit changed {name} to {value.dtype}; make it so in __init__"
    lost = [name for name in place if name not in state]
    return f"fit removed {lost[0]} from state_dict" if lost else ""


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (t.dtype, t.shape) for name, t in state.items()}


@dataclass(frozen=True)
class _About:
    """The JSON beside the weights: their SHA-256, the whole key, how and from what they came."""

    key: str
    weights: str
    log: TrainingLog
    origin: ModelOrigin | None = None


def _read_weights(path: Path, checksum: str, state: Mapping[str, Tensor]) -> bytes:
    """Return a file of weights; ValueError if it is too large for ``state`` or was changed."""
    most = sum(TENSOR_BYTES + t.numel() * t.element_size() for t in state.values())
    plain_file(path, HEADER_BYTES + most)
    data = path.read_bytes()
    if digest_bytes([data]) != checksum:
        raise ValueError("it does not match its checksum")
    return data
