"""E-CLA: the OT-Classifier's encoder and classifier without its regulariser (section 4.2)."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from benchmark.datasets import DatasetInfo, ImageDataset
from benchmark.errors import UsageError
from benchmark.models.architectures import default_architecture
from benchmark.models.defense import Defense
from benchmark.models.embedding_distance import distance_from_prior
from benchmark.progress import Progress
from benchmark.seeding import generator
from benchmark.training import Measure, Step, TrainingLog, TrainingSettings, train
from defenses.networks import embedding_classifier, encoder
from defenses.optimization import descend
from defenses.pretraining import pretrain

DEFAULT = TrainingSettings()


class EncoderClassifier(Defense):
    """C(Q(x)): an encoder Q into ``code_dim`` dimensions and a classifier C on the embeddings.

    Q learns with the training settings' ``lr`` and C with ``classifier_lr`` times it (the authors'
    scripts: 0.05). ``architecture`` names the encoder, by default the paper's for the image size.
    With ``pretrain_epochs``, the encoder's convolutions first learn to classify clean images under
    a linear head, with ``pretrain_lr`` (the authors' CIFAR10 encoder starts from such a VGG; how
    it was trained they do not say); the log counts those epochs up to 0.
    """

    def __init__(
        self,
        info: DatasetInfo,
        *,
        training: TrainingSettings = DEFAULT,
        width: float = 1.0,
        code_dim: int = 16,
        architecture: str | None = None,
        classifier_lr: float = 0.05,
        pretrain_epochs: int = 0,
        pretrain_lr: float = 1e-3,
    ) -> None:
        super().__init__(info)
        if pretrain_epochs < 0 or not pretrain_lr > 0:
            raise UsageError("pretrain_epochs must be at least 0 and pretrain_lr above 0")
        self.settings = training
        self.code_dim = code_dim
        self.classifier_lr = classifier_lr
        self.pretrain_epochs = pretrain_epochs
        self.pretrain_lr = pretrain_lr
        architecture = architecture or default_architecture(info)
        self.encoder = encoder(info, code_dim, architecture, width)
        self.classifier = embedding_classifier(info, code_dim, architecture)

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`benchmark.models.defense.Defense.forward`."""
        logits: Tensor = self.classifier(self.encoder(x))
        return logits

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings Q(x), (N, code_dim)."""
        embeddings: Tensor = self.encoder(x)
        return embeddings

    def fit(self, data: ImageDataset, *, seed: int, progress: Progress) -> TrainingLog:
        """Pretrain the encoder if asked to, then train with :meth:`algorithm`.

        The log has the held-out embeddings' distance from the prior N(0, I) as ``code_distance``.
        """
        rng = generator(seed + 1, data.device)  # apart from the loop's own, which orders the data
        before = self.pretrain(data, seed, progress)
        step, optimizers = self.algorithm(rng)
        log = train(
            self,
            data,
            step=step,
            optimizers=optimizers,
            settings=self.settings,
            seed=seed,
            progress=progress,
            measure=self.embedding_measure(seed),
            state=[rng],
        )
        return TrainingLog(before.epochs + log.epochs, before.seconds + log.seconds)

    def pretrain(self, data: ImageDataset, seed: int, progress: Progress) -> TrainingLog:
        """Train the encoder's convolutions as a plain classifier for ``pretrain_epochs``."""
        if self.pretrain_epochs == 0:
            return TrainingLog()
        convolutions, to_embedding = self.encoder
        return pretrain(
            convolutions,
            to_embedding.in_features,
            data,
            settings=replace(self.settings, epochs=self.pretrain_epochs, lr=self.pretrain_lr),
            seed=seed,
            progress=progress,
        )

    def algorithm(self, rng: torch.Generator) -> tuple[Step, list[Optimizer]]:
        """Return the step of a batch, here one of cross-entropy descent, and its optimisers.

        The first optimiser is Q's, whose learning rate the log shows.
        """
        q = Adam(self.encoder.parameters(), lr=self.settings.lr)
        c = Adam(self.classifier.parameters(), lr=self.settings.lr * self.classifier_lr)

        def step(x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
            loss = F.cross_entropy(self(x), y)
            descend(loss, q, c)
            return {"loss": loss.detach()}

        return step, [q, c]

    def embedding_measure(self, seed: int) -> Measure:
        """Return what measures the embeddings' distance from a fixed sample of the prior."""

        @torch.no_grad()
        def measure(held_out: ImageDataset) -> Mapping[str, float]:
            z = torch.cat([self.encoder(held_out.x(rows)) for rows in held_out.batches(250)])
            return {"code_distance": distance_from_prior(z.double().cpu().numpy(), seed)}

        return measure
