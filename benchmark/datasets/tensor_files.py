"""Files of tensors and arrays of others: .safetensors, .pt, .npz, .npy, and nothing that runs code.

The one place that reads what PyTorch or NumPy saved; a test sees to that.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmark.errors import UsageError, first_line
from benchmark.machine_errors import out_of_memory

SUFFIXES = (".npz", ".npy", ".pt", ".pth", ".safetensors")


def read_tensors(path: Path) -> Any:
    """Return what a file holds: tensors by name, a tensor, an array, or what torch made of it.

    UsageError, in one line, if it is not there, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    try:
        return _read(path)
    except Exception as error:
        if out_of_memory(error):
            raise
        if type(error).__name__ == "UnpicklingError":
            raise UsageError(
                f"{path} holds more than tensors, which is not loaded: it could run any code; save"
                " tensors alone (a state_dict), or a .safetensors file"
            ) from None
        # Damaged headers raise whatever the parsers of three libraries raise.
        raise UsageError(f"{path} cannot be read ({first_line(error)})") from None


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix not in (".npz", ".npy"):
        return torch.load(path, map_location="cpu", weights_only=True)
    found = np.load(path, allow_pickle=False)
    return {name: found[name] for name in found.files} if path.suffix == ".npz" else found
