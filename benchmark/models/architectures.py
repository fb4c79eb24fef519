"""Building blocks that several defenses share: the convolutional trunks, and their widths."""

from torch import Tensor, nn

from benchmark.datasets.info import DatasetInfo
from benchmark.errors import UsageError, unknown_name

VGG = {"vgg16": "D", "vgg19": "E"}
"""torchvision's names for the configurations of Simonyan and Zisserman 2014, table 1."""

STRIDED = {"conv4": (128, 256, 512, 1024), "conv6": (128, 256, 512, 1024, 2048, 2048)}
"""Channels of the stride-2 trunks in the OT-Classifier's published scripts."""

SMALLEST = {"conv4": 2, "conv6": 64}
"""Pixels a side that a stride-2 trunk needs. conv4 goes without the last layers where the images
are too small to be halved four times; for conv6 there is conv4."""

ARCHITECTURES = (*STRIDED, *VGG)


def scaled(channels: int, width: float) -> int:
    """Return ``channels`` times ``width``, at least 4: how presets shrink a network."""
    return max(4, round(channels * width))


def default_architecture(info: DatasetInfo) -> str:
    """Return the paper's trunk for images of ``info``: by size, since plugins bring others.

    conv4 (MNIST), vgg16 (CIFAR10), conv6 (STL10), vgg19 (other colour images; the paper does not
    say what Tiny ImageNet had, but a VGG-19 was published for larger colour images). Other grey
    images have conv4 or conv6: VGG is for colour.
    """
    channels, height, width = info.shape
    by_size = {(28, 28): "conv4", (96, 96): "conv6"}
    if (height, width) in by_size:
        return by_size[height, width]
    if channels == 1:
        return "conv6" if min(height, width) >= SMALLEST["conv6"] else "conv4"
    return "vgg16" if width <= 32 else "vgg19"


class Normalize(nn.Module):
    """Maps images in [0, 1] to [-1, 1]; inside the model, so that attacks work in [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return 2 ``x`` - 1."""
        return 2 * x - 1


def trunk(info: DatasetInfo, architecture: str, width: float) -> tuple[nn.Sequential, int]:
    """Return convolutions that map images (N, C, H, W) in [0, 1] to features (N, F), and F.

    ``architecture`` is one of ARCHITECTURES; ``width`` scales every layer's channels. UsageError
    if the images do not fit.
    """
    if architecture not in ARCHITECTURES:
        raise unknown_name("architecture", architecture, ARCHITECTURES)
    channels, height, width_px = info.shape
    if architecture in VGG:
        if channels != 3:
            raise UsageError(f"{architecture} takes colour images; those of {info.name} are grey")
        return _vgg(architecture, (height, width_px), width)
    smallest = SMALLEST[architecture]
    if min(height, width_px) < smallest:
        raise UsageError(
            f"{architecture} takes images of at least {smallest} pixels a side;"
            f" those of {info.name} have {height}x{width_px}"
        )
    return _strided(channels, (height, width_px), architecture, width)


def _vgg(architecture: str, size: tuple[int, int], width: float) -> tuple[nn.Sequential, int]:
    """VGG's convolutions with batch norm, average-pooled (https://arxiv.org/abs/1409.1556).

    A pooling that would leave less than a pixel of images of ``size`` (height, width) is omitted.
    """
    # Here, because it costs a second to import, and the grey datasets need none of it.
    from torchvision.models.vgg import cfgs, make_layers

    layers: list[int | str] = []
    side = min(size)
    for layer in cfgs[VGG[architecture]]:
        if not isinstance(layer, str):
            layers.append(scaled(layer, width))
        elif side > 1:
            layers.append(layer)
            side //= 2
    convolutions = make_layers(layers, batch_norm=True)
    pooled = nn.Sequential(Normalize(), convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return pooled, scaled(512, width)


def _strided(
    channels: int, size: tuple[int, int], architecture: str, width: float
) -> tuple[nn.Sequential, int]:
    """Stride-2 4x4 convolutions down to one pixel, with batch norm from the second on.

    conv6 ends with a 3x3 one on the three pixels that remain of 96, as published; the two that
    remain of 64 take another 4x4. What remains of images of another ``size`` (height, width) is
    averaged over its pixels, and layers that would leave less than one pixel are omitted.
    """
    layers: list[nn.Module] = [Normalize()]
    height, width_px = size
    for index, full in enumerate(STRIDED[architecture]):
        if min(height, width_px) < 2:
            break
        features = scaled(full, width)
        kernel, padding = (3, 0) if index == 5 and size == (96, 96) else (4, 1)
        layers.append(nn.Conv2d(channels, features, kernel, stride=2, padding=padding))
        if index > 0:
            layers.append(nn.BatchNorm2d(features))
        layers.append(nn.ReLU())
        channels = features
        height, width_px = height // 2, width_px // 2
    if (height, width_px) != (1, 1):
        layers.append(nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*layers, nn.Flatten()), channels
