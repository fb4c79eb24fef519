"""The cache of trained models: safetensors and a JSON, keyed by everything that shaped them."""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import platformdirs
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from benchmark.datasets import ImageDataset
from benchmark.defense import Defense
from benchmark.files import plain_file
from benchmark.json_files import read_json
from benchmark.results import write_atomic, write_json
from benchmark.spec import DefenseSpec, digest
from benchmark.splits import cause
from benchmark.training import TrainingLog
from benchmark.typed import build

_log = logging.getLogger(__name__)

HEADER_BYTES = 2**16
TENSOR_BYTES = 2**10
"""So much a file of weights may hold beyond the weights: at all, and for each tensor."""


def cache_dir() -> Path:
    """Return the cache folder: BENCHMARK_CACHE_DIR, else the user's (XDG_CACHE_HOME)."""
    named = os.environ.get("BENCHMARK_CACHE_DIR")
    return Path(named) if named else Path(platformdirs.user_cache_dir("defensebench"))


def model_key(defense: Defense, spec: DefenseSpec, data: ImageDataset, seed: int) -> str:
    """Return the hash of everything that shaped a trained model.

    That is the class and its source (with those of its base classes and of the modules they use,
    from their own packages and from the harness), its options, the exact training images, the
    seed, the kind of device and the version of torch.
    """
    cls = type(defense)
    bases = [base for base in cls.__mro__ if issubclass(base, Defense)]
    modules = dict.fromkeys(base.__module__ for base in bases)
    return digest(
        f"{cls.__module__}:{cls.__qualname__}",
        *(source_digest(sys.modules[name]) for name in modules),
        json.dumps(spec.params, sort_keys=True, default=str),
        data.checksum,
        data.info,
        seed,
        data.device.type,
        version("torch"),
    )


def source_digest(module: ModuleType) -> str:
    """Hash the source of ``module`` and of the modules it uses, recursively.

    Only modules of its own top-level package and of the harness are followed: other libraries'
    code is taken to be as stable as their version.
    """
    roots = {module.__name__.partition(".")[0], "benchmark"}
    found: dict[str, str] = {}
    waiting = [module.__name__]
    while waiting:
        name = waiting.pop()
        used = sys.modules.get(name)
        path = getattr(used, "__file__", None)
        if name in found or name.partition(".")[0] not in roots or path is None:
            continue
        found[name] = digest(Path(path).read_text("utf-8"))
        for value in vars(used).values():
            if isinstance(value, ModuleType):
                waiting.append(value.__name__)
            elif isinstance(getattr(value, "__module__", None), str):
                waiting.append(value.__module__)
    return digest(*(f"{name} {found[name]}" for name in sorted(found)))


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

    def save(self, key: str, defense: Defense, log: TrainingLog) -> None:
        """Keep a trained ``defense`` with its log, atomically: weights first, then the JSON."""
        weights, about = self._paths(key)
        # Copies, because safetensors refuses tensors that share memory, as tied weights do.
        state = {
            name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, t in defense.state_dict().items()
        }
        data = save(state)
        write_atomic(weights, data)
        checksum = hashlib.sha256(data).hexdigest()
        write_json(about, {"key": key, "weights": checksum, "log": log.to_dict()})

    def _paths(self, key: str) -> tuple[Path, Path]:
        return self.folder / f"{key[:32]}.safetensors", self.folder / f"{key[:32]}.json"


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (t.dtype, t.shape) for name, t in state.items()}


@dataclass(frozen=True)
class _About:
    """The JSON beside the weights: their SHA-256, the whole key and how they were trained."""

    key: str
    weights: str
    log: TrainingLog


def _read_weights(path: Path, checksum: str, state: Mapping[str, Tensor]) -> bytes:
    """Return a file of weights; ValueError if it is too large for ``state`` or was changed."""
    most = sum(TENSOR_BYTES + t.numel() * t.element_size() for t in state.values())
    plain_file(path, HEADER_BYTES + most)
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != checksum:
        raise ValueError("it does not match its checksum")
    return data
