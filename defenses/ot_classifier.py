"""The Optimal Transport Classifier (Li et al.), plain and with adversarial training.

Symbols as in the paper's Algorithm 1: images x, labels y, encoder Q, classifier C, discriminator
D with log D as its output, codes z~ = Q(x), prior codes z ~ N(0, I), regularisation lambda.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam

from benchmark.datasets import DatasetInfo, ImageDataset
from benchmark.progress import Progress
from benchmark.seeding import generator
from benchmark.training import TrainingLog, TrainingSettings, adversarial_examples, train
from defenses.e_cla import DEFAULT, EncoderClassifier
from defenses.networks import discriminator


class OTClassifier(EncoderClassifier):
    """OT-CLA: E-CLA whose codes a discriminator pushes towards the prior N(0, I).

    ``lam`` is lambda. D learns with ``discriminator_lr`` times the training settings' ``lr`` and
    its weights are clipped to [-``clip``, ``clip``] after each update (1-Wasserstein distance, as
    in Arjovsky et al. 2017, https://arxiv.org/abs/1701.07875). Q has one Adam for both of its
    updates: with an optimiser of its own, the regulariser's step would not depend on lambda,
    because Adam divides a gradient's scale away.
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
        discriminator_lr: float = 0.5,
        lam: float = 1.0,
        clip: float = 0.01,
    ) -> None:
        super().__init__(
            info,
            training=training,
            width=width,
            code_dim=code_dim,
            architecture=architecture,
            classifier_lr=classifier_lr,
        )
        self.discriminator_lr = discriminator_lr
        self.lam = lam
        self.clip = clip
        self.discriminator = discriminator(code_dim)

    def fit(self, data: ImageDataset, *, seed: int, progress: Progress) -> TrainingLog:
        """Run Algorithm 1: three one-step Adam updates a batch."""
        lr = self.settings.lr
        q = Adam(self.encoder.parameters(), lr=lr)
        c = Adam(self.classifier.parameters(), lr=lr * self.classifier_lr)
        d = Adam(self.discriminator.parameters(), lr=lr * self.discriminator_lr)
        rng = generator(seed + 1, data.device)  # apart from the loop's own, which orders the data

        def step(x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
            attacked = self.attacked_images(x, y, rng)
            z = torch.randn(len(x), self.code_dim, generator=rng, device=x.device)
            codes, loss = self.classification(x, attacked, y)
            gap = self.update_discriminator(d, z, codes.detach())
            for optimizer in (q, c):
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            q.step()
            c.step()
            self.update_encoder(q, x if attacked is None else attacked)
            return {"loss": loss.detach(), "code_gap": gap}

        return train(
            self,
            data,
            step=step,
            optimizers=[q, c, d],
            settings=self.settings,
            seed=seed,
            progress=progress,
        )

    def attacked_images(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor | None:
        """Return adversarial examples of the batch to train on, or None for clean training."""
        return None

    def classification(
        self, x: Tensor, attacked: Tensor | None, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the codes z~ (N, k) to regularise and the cross-entropy to descend (line 8).

        With adversarial training the codes are the attacked images' and the loss is the mean of
        the clean and the adversarial one.
        """
        codes = self.encoder(x)
        loss = F.cross_entropy(self.classifier(codes), y)
        if attacked is None:
            return codes, loss
        codes = self.encoder(attacked)
        return codes, (loss + F.cross_entropy(self.classifier(codes), y)) / 2

    def update_discriminator(self, optimizer: Adam, z: Tensor, codes: Tensor) -> Tensor:
        """Ascend lambda (mean log D(z) - mean log D(z~)) by one step and clip (line 7).

        Returns the gap between the means, before the step: the critic's estimate of the distance.
        """
        gap = self.discriminator(z).mean() - self.discriminator(codes).mean()
        optimizer.zero_grad(set_to_none=True)
        (-self.lam * gap).backward()
        optimizer.step()
        with torch.no_grad():
            for parameter in self.discriminator.parameters():
                parameter.clamp_(-self.clip, self.clip)
        return gap.detach()

    def update_encoder(self, optimizer: Adam, x: Tensor) -> None:
        """Ascend lambda mean log D(Q(x)) by one step of Q (line 9)."""
        regulariser = self.discriminator(self.encoder(x)).mean()
        optimizer.zero_grad(set_to_none=True)
        (-self.lam * regulariser).backward()
        optimizer.step()


class OTClassifierAdv(OTClassifier):
    """OT-CLA+Adv: Algorithm 1 on PGD examples of each batch (Table 1)."""

    def attacked_images(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """Return PGD examples of the batch against the model as it stands."""
        return adversarial_examples(self, x, y, self.settings, rng)
