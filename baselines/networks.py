"""The plain classifiers that the baselines train, one per kind of image."""

import torch
from torch import nn

from benchmark.datasets import DatasetInfo
from benchmark.layers import Normalize, scaled, vgg_trunk


def plain_classifier(info: DatasetInfo, width: float = 1.0) -> nn.Sequential:
    """Return the network without any defense for images of ``info``; images to logits (N, K).

    Grey images (MNIST): conv5x5(20), pool, conv5x5(50), pool, 500, K, as the authors' scripts set
    it. Colour images: VGG-16 up to 32 pixels, VGG-19 above, with batch norm and average pooling;
    the paper leaves this open. ``width`` scales the channels of every layer.
    """
    channels, height, size = info.shape
    if channels == 3:
        trunk, features = vgg_trunk("vgg16" if size <= 32 else "vgg19", width)
        return nn.Sequential(Normalize(), trunk, nn.Linear(features, info.n_classes))
    first, second, hidden = scaled(20, width), scaled(50, width), scaled(500, width)
    convolutions = nn.Sequential(
        Normalize(),
        nn.Conv2d(channels, first, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )
    features = convolutions(torch.zeros(1, channels, height, size)).shape[1]
    return nn.Sequential(
        convolutions,
        nn.Linear(features, hidden),
        nn.ReLU(),
        nn.Linear(hidden, info.n_classes),
    )
