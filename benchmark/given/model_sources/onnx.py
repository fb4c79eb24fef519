"""``onnx:FILE``: an exported network, which only answers: attacks have no gradient of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.errors import UsageError, first_line
from benchmark.given.model_sources.loaded import LoadedModel, library


class OnnxModel:
    """Asks an onnxruntime session; a file with a fixed batch size is asked in parts of it."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.input = session.get_inputs()[0]
        first = self.input.shape[0] if self.input.shape else None
        self.batch = first if isinstance(first, int) and first > 0 else None

    def __call__(self, x: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Return the first output (n, K) for images (n, C, H, W), float32."""
        size = self.batch or len(x)
        parts = []
        for start in range(0, len(x), size):
            part = x[start : start + size]
            filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
            (answer, *_) = self.session.run(None, {self.input.name: filled})
            parts.append(np.asarray(answer)[: len(part)])
        return np.concatenate(parts)


def load(file: str, args: Mapping[str, Any]) -> LoadedModel:
    """Return the network of a file."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError(f"onnx:{file}: there is no such file")
    runtime = library("onnxruntime")
    if args:
        raise UsageError("--model-args: an ONNX file takes none")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UsageError(f"onnx:{file}: {first_line(error)}") from None
    model = OnnxModel(session)
    shape = model.input.shape
    size = tuple(shape[2:4]) if len(shape) == 4 and all(map(_known, shape[2:4])) else None
    return LoadedModel(model, path.stem, size=size)


def _known(axis: Any) -> bool:
    return isinstance(axis, int) and axis > 0
