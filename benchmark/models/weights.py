"""A model's tensors: which it has, and their digest."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from benchmark.hashing import Buffer, digest_bytes


def tensors_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a state dict; those of a lazy module have no values before its use."""
    found = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return {name: value for name, value in found.items() if not is_lazy(value)}


def weights_of(model: nn.Module) -> str:
    """Return the SHA-256 of a model's tensors with their names, dtypes and shapes."""
    return digest_bytes(_buffers(tensors_of(model.state_dict())))


def _buffers(tensors: Mapping[str, Tensor]) -> Iterator[Buffer]:
    for name, tensor in sorted(tensors.items()):
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        flat = tensor.detach().cpu().contiguous().flatten()
        yield flat.view(torch.uint8).numpy().data if flat.numel() else b""
