"""A file of weights into a model: safetensors, or a state_dict of tensors, never pickled code."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmark.datasets.tensor_files import read_tensors
from benchmark.errors import UsageError

WITHIN = ("state_dict", "model_state_dict", "model", "net", "weights", "params")
"""Under which names checkpoints hold the state_dict."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What wrappers (DataParallel, torch.compile, a training class) put before every name."""


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the tensors of a file into ``model``; UsageError, in one line, if they do not fit."""
    state = _fitting(_tensors(read_tensors(path), path), set(model.state_dict()))
    place = model.state_dict()
    wrong = [
        f"{name} is {_shape(value)} there and {_shape(place[name])} in the model"
        for name, value in state.items()
        if name in place and value.shape != place[name].shape
    ]
    if wrong:
        raise UsageError(f"--weights {path}: {_few(wrong)}")
    # num_batches_tracked is a count that older checkpoints lack; nothing is computed with it.
    missing = [n for n in place if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in place]
    if missing or unexpected:
        raise UsageError(f"--weights {path}: {_differing(missing, unexpected)}")
    model.load_state_dict(state, strict=False)


def _tensors(found: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(found, Mapping):
        for name in WITHIN:
            if isinstance(found.get(name), Mapping):
                return _tensors(found[name], path)
        tensors = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise UsageError(f"--weights {path} holds no state_dict: save model.state_dict()")


def _fitting(state: dict[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    """Return the state without the wrapper's prefix that stands before all its names, if any."""
    for prefix in PREFIXES:
        if not names & set(state) and all(name.startswith(prefix) for name in state):
            inner = {name.removeprefix(prefix): value for name, value in state.items()}
            return _fitting(inner, names)
    return state


def _differing(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    parts = []
    if missing:
        near = get_close_matches(missing[0], unexpected, 1, 0.4)
        hint = f" ({missing[0]} is perhaps its {near[0]})" if near else ""
        parts.append(f"it lacks {_few(missing)}{hint}")
    if unexpected:
        parts.append(f"the model has no {_few(unexpected)}")
    return "; ".join(parts)


def _few(items: Sequence[str]) -> str:
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return ", ".join(items[:3]) + more


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
