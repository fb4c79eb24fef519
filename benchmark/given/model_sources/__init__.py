"""Models as words: ``file.py:factory``, ``torchvision:NAME``, ``timm:NAME``, ``hf:FOLDER``,
``onnx:FILE``.

Another scheme is a module beside these, and a line in :data:`SCHEMES`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from benchmark.errors import UsageError
from benchmark.given.model_sources import factory, hugging_face, onnx, timm, torchvision
from benchmark.given.model_sources.arguments import parse_args
from benchmark.given.model_sources.loaded import LoadedModel
from benchmark.given.model_sources.weights import load_weights

__all__ = ["LoadedModel", "load_model", "load_weights", "parse_args"]

SCHEMES: Mapping[str, Callable[[str, Mapping[str, Any]], LoadedModel]] = {
    "torchvision": torchvision.load,
    "timm": timm.load,
    "hf": hugging_face.load,
    "onnx": onnx.load,
}
"""By the word before the colon; any other is a module or a file with a factory."""


def load_model(
    text: str, *, args: Mapping[str, Any] | None = None, weights: Path | None = None
) -> LoadedModel:
    """Return the model that ``text`` names, made with ``args``, with ``weights`` loaded into it.

    UsageError, in one line, says what is wrong or what to install.
    """
    scheme, colon, rest = text.partition(":")
    if not colon or not rest:
        raise UsageError(
            f"--model {text!r}: write package.module:factory, path/to/file.py:factory,"
            f" {', '.join(f'{name}:...' for name in SCHEMES)}"
        )
    load = SCHEMES.get(scheme)
    found = load(rest, args or {}) if load else factory.load(text, args or {})
    if weights is not None:
        if not isinstance(found.model, nn.Module):
            raise UsageError(f"--weights: {text} is no nn.Module that weights could be loaded into")
        load_weights(found.model, weights)
    if isinstance(found.model, nn.Module):
        found.model.eval()  # as it is evaluated; a module that was just made is in training mode
    return found
