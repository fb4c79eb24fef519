"""What a trained model came from: its key in the cache, and what has changed since.

All rows of a run come from one model. Before more are added, and before the run is called complete,
what that model came from is compared with what is there now.
"""

import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmark.config.spec import DefenseSpec
from benchmark.datasets.dataset import ImageDataset
from benchmark.hashing import digest
from benchmark.models.answers import difference
from benchmark.models.defense import Defense
from benchmark.models.weights import tensors_of
from benchmark.plugins.source_code import own_and_harness
from benchmark.results.model_records import ModelOrigin
from benchmark.results.provenance import device_name
from benchmark.training.files_read import changed_file, declared, file_hash

WORDS = {
    "class": "its class",
    "code": "its code",
    "options": "its options",
    "files": "a file that it names in depends_on",
    "images": "the training images",
}
"""The parts of a key that are the user's. The others (:data:`AROUND`) are the harness's."""

AROUND = {
    "harness": "defensebench",
    "seed": "the seed",
    "device": "the device",
    "torch": "torch",
}

ALIKE = 1e-5
"""By how much tensors before training may differ, relative to their length (docs/constants.md)."""


def model_parts(
    defense: Defense, spec: DefenseSpec, data: ImageDataset, seed: int
) -> dict[str, str]:
    """Return what shapes a trained model, by name, each as a digest or as it is."""
    cls = type(defense)
    bases = [base for base in cls.__mro__ if issubclass(base, Defense)]
    modules = dict.fromkeys(base.__module__ for base in bases)
    code, harness = own_and_harness(*(sys.modules[name] for name in modules))
    return {
        "class": f"{cls.__module__}:{cls.__qualname__}",
        "code": code,
        "options": digest(json.dumps(spec.params, sort_keys=True, default=str)),
        "files": digest(*(file_hash(path) for path in declared(defense))),
        "images": digest(data.checksum, data.info),
        "harness": harness,
        "seed": str(seed),
        "device": data.device.type,
        "torch": version("torch"),
    }


def key_of(parts: Mapping[str, str]) -> str:
    """Return the hash of all parts."""
    return digest(*(f"{name} {parts[name]}" for name in sorted(parts)))


def model_key(defense: Defense, spec: DefenseSpec, data: ImageDataset, seed: int) -> str:
    """Return the hash of everything that shaped a trained model.

    That is the class and its source (with those of its base classes and of the modules they use),
    its options, the files that it names in ``depends_on``, the exact training images, the seed, the
    kind of device and the version of torch.
    """
    return key_of(model_parts(defense, spec, data, seed))


def origin_of(defense: Defense, spec: DefenseSpec, data: ImageDataset, seed: int) -> ModelOrigin:
    """Return what is known of a model before it is trained."""
    return ModelOrigin(
        parts=model_parts(defense, spec, data, seed), start=start_of(defense), where=where(data)
    )


def where(data: ImageDataset) -> str:
    """Name the processor that works on ``data``, and its instructions."""
    return f"{device_name(data.device.type)}, {torch.backends.cpu.get_cpu_capability()}"


def start_of(defense: Defense) -> list[list[float]]:
    """Return for each tensor of a model its length and a weighted sum of its entries.

    Not a hash: on a processor that rounds differently it must be the same model.
    """
    found = []
    for _, tensor in sorted(tensors_of(defense.state_dict()).items()):
        real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        flat = real.detach().to("cpu", torch.float64).flatten()
        # Weights without a period, so that swapped rows or columns change the sum.
        waves = torch.arange(len(flat), dtype=torch.float64).sin()
        found.append([float(flat.norm()), float(flat @ waves)])
    return found


def alike(one: Any, other: Any) -> bool:
    """Tell whether two results of :func:`start_of` belong to the same tensors."""
    try:
        a, b = (torch.tensor(each, dtype=torch.float64) for each in (one, other))
    except (TypeError, ValueError):
        return False
    if a.shape != b.shape:
        return False
    same = (a == b) | (a.isnan() & b.isnan())
    return not a.numel() or bool((same | ((a - b).abs() <= ALIKE * a[:, :1].clamp_min(1e-9))).all())


def changed(before: ModelOrigin, now: ModelOrigin) -> str:
    """Say which part of the user's has changed since a model was trained; "" if none has."""
    for name, words in WORDS.items():
        if before.parts.get(name, "") != now.parts.get(name, ""):
            return words
    if path := changed_file(before.files):
        return f"the file {Path(path).name}"
    # Another torch, or another version of a layer of ours, draws other numbers.
    same = not around(before, now)
    if same and before.start and now.start and not alike(before.start, now.start):
        return "what it starts its training from (a file that it loads?)"
    return ""


def around(before: ModelOrigin, now: ModelOrigin) -> str:
    """Say what else has changed that would shape a model trained now; "" if nothing has."""
    return " and ".join(
        words
        for name, words in AROUND.items()
        if before.parts.get(name, "") != now.parts.get(name, "")
    )


def another(before: ModelOrigin, now: ModelOrigin) -> str:
    """Say why two trained models are not the same; "" if they are, as far as it is known."""
    if before.weights and now.weights and before.weights != now.weights:
        return "its weights are others"
    if before.where == now.where and (words := difference(before.answers, dict(now.answers))):
        return f"it answers otherwise ({words})"
    return ""
