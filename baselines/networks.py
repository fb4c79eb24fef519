"""The plain classifiers that the baselines train."""

from torch import nn

from benchmark.datasets import DatasetInfo
from benchmark.models.architectures import Normalize, default_architecture, scaled, trunk


def plain_classifier(
    info: DatasetInfo, width: float = 1.0, architecture: str | None = None
) -> nn.Sequential:
    """Return the network without any defense: images (N, C, H, W) to logits (N, K).

    Grey 28x28 images have the authors' small CNN. The paper leaves the others open: they have the
    trunk of the OT-Classifier's encoder (``architecture`` names another) under a linear head, so
    that what a defense adds is all that differs. ``width`` scales every layer's channels.
    """
    if architecture is None and info.shape == (1, 28, 28):
        return _small_cnn(info.n_classes, width)
    convolutions, features = trunk(info, architecture or default_architecture(info), width)
    return nn.Sequential(convolutions, nn.Linear(features, info.n_classes))


def _small_cnn(n_classes: int, width: float) -> nn.Sequential:
    """conv5x5(20), pool, conv5x5(50), pool, 500, K: the authors' MNIST model."""
    first, second, hidden = scaled(20, width), scaled(50, width), scaled(500, width)
    return nn.Sequential(
        Normalize(),
        nn.Conv2d(1, first, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * 4 * 4, hidden),
        nn.ReLU(),
        nn.Linear(hidden, n_classes),
    )
