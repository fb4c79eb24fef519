"""Fewer grey levels and JPEG in front of a classifier: a transformation of the input.

Bit depth: Xu et al. 2017 (https://arxiv.org/abs/1704.01155). JPEG: Das et al. 2017
(https://arxiv.org/abs/1705.02900), Guo et al. 2018 (https://arxiv.org/abs/1711.00117). Neither
passes a gradient; an attack that knows of them takes the identity's instead (BPDA, Athalye et al.
2018, https://arxiv.org/abs/1802.00420), and little of the robustness remains.
"""

import io
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from baselines.undefended import Undefended
from benchmark import DatasetInfo
from benchmark.errors import UsageError
from benchmark.training import TrainingSettings


class Squeezed(Undefended):
    """The plain classifier behind ``bits`` bits a channel and JPEG of ``quality`` (1 to 100).

    It is trained on what it will see, squeezed images.
    """

    differentiable: ClassVar[bool] = False  # attacks need the surrogate below
    exact_surrogate: ClassVar[bool] = True  # whose value is that of forward

    def __init__(
        self,
        info: DatasetInfo,
        *,
        training: TrainingSettings = TrainingSettings(),  # noqa: B008 (it is frozen)
        width: float = 1.0,
        architecture: str | None = None,
        bits: int = 3,
        quality: int = 75,
    ) -> None:
        super().__init__(info, training=training, width=width, architecture=architecture)
        if not (1 <= bits <= 8 and 1 <= quality <= 100):
            raise UsageError(
                f"squeezed: bits must be 1 to 8 and quality 1 to 100, got {bits} and {quality}"
            )
        self.bits, self.quality = bits, quality

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the squeezed images, exactly as they would be deployed."""
        return super().forward(self.squeeze(x))

    def surrogate(self, x: Tensor) -> Tensor:
        """Return the same logits, with the identity for the squeezing in the backward pass."""
        return super().forward(self.squeeze(x) + (x - x.detach()))

    def squeeze(self, x: Tensor) -> Tensor:
        """Return ``x`` (N, C, H, W) in [0, 1] with fewer levels, through JPEG; no graph."""
        return through_jpeg(fewer_levels(x.detach(), self.bits), self.quality)


def fewer_levels(x: Tensor, bits: int) -> Tensor:
    """Return ``x`` in [0, 1], rounded to 2**bits levels."""
    top = 2**bits - 1
    return (x * top).round() / top


def through_jpeg(x: Tensor, quality: int) -> Tensor:
    """Return images (N, C, H, W) in [0, 1] after encoding and decoding, on their device."""
    pixels = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = np.stack([_decoded(_encoded(image, quality), image.shape) for image in pixels])
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).to(x) / 255


def _encoded(image: np.ndarray, quality: int) -> io.BytesIO:
    file = io.BytesIO()
    grey = image.shape[-1] == 1
    Image.fromarray(image[..., 0] if grey else image).save(file, "jpeg", quality=quality)
    return file


def _decoded(file: io.BytesIO, shape: tuple[int, ...]) -> np.ndarray:
    with Image.open(file) as image:
        return np.array(image).reshape(shape)
