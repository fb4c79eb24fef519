"""Building blocks that several defenses share."""

from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

VGG_CONFIGURATIONS = {"vgg16": "D", "vgg19": "E"}


def scaled(channels: int, width: float) -> int:
    """Return ``channels`` times ``width``, at least 4: how presets shrink a network."""
    return max(4, round(channels * width))


class Normalize(nn.Module):
    """Maps images in [0, 1] to [-1, 1]; inside the model, so that attacks work in [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return 2 ``x`` - 1."""
        return 2 * x - 1


def vgg_trunk(name: str, width: float) -> tuple[nn.Sequential, int]:
    """Return VGG's convolutions with batch norm, average-pooled and flat, and their features.

    ``name`` is vgg16 or vgg19 (Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556);
    ``width`` scales every layer's channels. Maps (N, 3, H, W) to (N, features).
    """
    layers: list[int | str] = [
        layer if isinstance(layer, str) else scaled(layer, width)
        for layer in cfgs[VGG_CONFIGURATIONS[name]]
    ]
    convolutions = make_layers(layers, batch_norm=True)
    return (
        nn.Sequential(convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        scaled(512, width),
    )
