"""The state of a training as a file: safetensors, the rest as JSON in the header, and a checksum.

One file, so that no kill can separate the parts.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from benchmark.hashing import Buffer, digest_bytes
from benchmark.io.atomic import write_atomic


class Stateful(Protocol):
    """A model, an optimiser, a schedule, or whatever else has a state of plain data and tensors."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Take over a state; its tensors are on the CPU."""


Part = Stateful | torch.Generator


def encoded(parts: Sequence[Part]) -> tuple[list[Any], dict[str, Tensor]]:
    """Return the parts' states as plain data and the tensors that these name, copied."""
    tensors: dict[str, Tensor] = {}
    states = [
        part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
        for part in parts
    ]
    return [_taken_apart(state, tensors) for state in states], tensors


def load(parts: Sequence[Part], states: Sequence[Any], tensors: Mapping[str, Tensor]) -> None:
    """Give the parts back the states that :func:`encoded` returned."""
    for part, plain in zip(parts, states, strict=True):
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
        # The order in memory is kept: rounding may depend on it.
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


def write(path: Path, about: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write plain data and tensors atomically, with a checksum over both."""
    text = json.dumps(about)
    write_atomic(path, save(tensors, {"state": text, "sha256": _checksum(text, tensors)}))


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what :func:`write` wrote; ValueError if its checksum does not match."""
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
