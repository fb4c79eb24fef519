"""The OT-Classifier's networks: encoder Q, classifier C and discriminator D.

Sizes as in the authors' scripts; ``width`` scales the channels of the encoder, so that presets
can shrink it. The code's dimension k is the defense's, not the network's.
"""

from torch import nn

from benchmark.datasets import DatasetInfo
from benchmark.errors import UsageError, unknown_name
from benchmark.layers import VGG_CONFIGURATIONS, Normalize, scaled, vgg_trunk

STRIDED = {"conv4": (128, 256, 512, 1024), "conv6": (128, 256, 512, 1024, 2048, 2048)}
"""Channels of the strided encoders: conv4 takes 28x28 images, conv6 takes 96x96 ones."""

STRIDED_SIZE = {"conv4": 28, "conv6": 96}

ARCHITECTURES = (*STRIDED, *VGG_CONFIGURATIONS)


def default_architecture(info: DatasetInfo) -> str:
    """Return the paper's encoder for images of ``info``: by size, since plugins bring others."""
    for name, size in STRIDED_SIZE.items():
        if info.shape[2] == size:
            return name
    return "vgg16" if info.shape[2] <= 32 else "vgg19"


def encoder(info: DatasetInfo, code_dim: int, architecture: str, width: float) -> nn.Sequential:
    """Return Q: images (N, C, H, W) in [0, 1] to codes (N, code_dim).

    ``architecture`` is conv4 (MNIST), vgg16 (CIFAR10), conv6 (STL10) or vgg19 (larger colour
    images; the paper does not say what Tiny ImageNet had). UsageError if it does not fit.
    """
    if architecture not in ARCHITECTURES:
        raise unknown_name("encoder architecture", architecture, ARCHITECTURES)
    channels, height, size = info.shape
    if architecture in VGG_CONFIGURATIONS:
        if channels != 3:
            raise UsageError(f"{architecture} takes colour images; {info.name} is grey: use conv4")
        trunk, features = vgg_trunk(architecture, width)
        return nn.Sequential(Normalize(), trunk, nn.Linear(features, code_dim))
    if (height, size) != (STRIDED_SIZE[architecture],) * 2:
        raise UsageError(
            f"{architecture} takes images of {STRIDED_SIZE[architecture]} pixels a side;"
            f" {info.name} has {height}x{size}: use vgg16 or vgg19"
        )
    return _strided(channels, code_dim, architecture, width)


def _strided(channels: int, code_dim: int, architecture: str, width: float) -> nn.Sequential:
    """Stride-2 convolutions down to one pixel: 4x4 ones, and conv6 closes with a 3x3 one."""
    layers: list[nn.Module] = [Normalize()]
    for index, full in enumerate(STRIDED[architecture]):
        features = scaled(full, width)
        last_of_six = index == 5
        layers.append(
            nn.Conv2d(
                channels,
                features,
                kernel_size=3 if last_of_six else 4,
                stride=2,
                padding=0 if last_of_six else 1,
            )
        )
        if index > 0:
            layers.append(nn.BatchNorm2d(features))
        layers.append(nn.ReLU())
        channels = features
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, code_dim))


def code_classifier(info: DatasetInfo, code_dim: int, architecture: str) -> nn.Sequential:
    """Return C: codes (N, code_dim) to logits (N, K).

    500 and 256 units with batch norm beside the strided encoders; 512 and 512 with dropout beside
    VGG. Its layers are small, so presets do not shrink them.
    """
    if architecture in VGG_CONFIGURATIONS:
        return nn.Sequential(
            nn.Linear(code_dim, 512),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(512, info.n_classes),
        )
    return nn.Sequential(
        nn.Linear(code_dim, 500),
        nn.BatchNorm1d(500),
        nn.ReLU(),
        nn.Linear(500, 256),
        nn.BatchNorm1d(256),
        nn.ReLU(),
        nn.Linear(256, info.n_classes),
    )


def discriminator(code_dim: int) -> nn.Sequential:
    """Return log D: codes (N, code_dim) to log-probabilities (N, 1) of coming from the prior."""
    layers: list[nn.Module] = []
    features = code_dim
    for _ in range(4):
        layers += [nn.Linear(features, 512), nn.ReLU()]
        features = 512
    return nn.Sequential(*layers, nn.Linear(features, 1), nn.LogSigmoid())
