"""The OT-Classifier's networks: encoder Q, classifier C and discriminator D.

Sizes as in the authors' scripts; ``width`` scales the channels of the encoder, so that presets
can shrink it. C and D are small, and stay as they are.
"""

from torch import nn

from benchmark.datasets import DatasetInfo
from benchmark.models.architectures import VGG, trunk


def encoder(info: DatasetInfo, code_dim: int, architecture: str, width: float) -> nn.Sequential:
    """Return Q: images (N, C, H, W) in [0, 1] to embeddings (N, code_dim)."""
    convolutions, features = trunk(info, architecture, width)
    return nn.Sequential(convolutions, nn.Linear(features, code_dim))


def embedding_classifier(info: DatasetInfo, code_dim: int, architecture: str) -> nn.Sequential:
    """Return C: embeddings (N, code_dim) to logits (N, K).

    512 and 512 units with dropout beside VGG; 500 and 256 with batch norm beside the others.
    """
    if architecture in VGG:
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
    """Return D before its sigmoid: embeddings (N, code_dim) to scores (N, 1), high for the
    prior's."""
    layers: list[nn.Module] = []
    features = code_dim
    for _ in range(4):
        layers += [nn.Linear(features, 512), nn.ReLU()]
        features = 512
    return nn.Sequential(*layers, nn.Linear(features, 1))
