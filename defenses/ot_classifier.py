"""The Optimal Transport Classifier (Li et al.), plain and with adversarial training.

Symbols as in the paper's Algorithm 1: images x, labels y, encoder Q, classifier C, discriminator
D (the network returns its score, D is the sigmoid of it), embeddings z~ = Q(x), prior embeddings
z ~ N(0, I), regularisation lambda.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from benchmark.datasets import DatasetInfo
from benchmark.errors import UsageError, unknown_name
from benchmark.training import Step, TrainingSettings, adversarial_examples
from defenses.e_cla import DEFAULT, EncoderClassifier
from defenses.networks import discriminator
from defenses.optimization import descend

DIVERGENCES = ("wasserstein", "jensen-shannon")


class OTClassifier(EncoderClassifier):
    """OT-CLA: E-CLA whose embeddings a discriminator pushes towards the prior N(0, I).

    ``lam`` is lambda. D learns with ``discriminator_lr`` times the training settings' ``lr``. With
    the divergence "wasserstein" its weights are clipped to [-``clip``, ``clip``] after each update
    (1-Wasserstein distance, as in Arjovsky et al. 2017, https://arxiv.org/abs/1701.07875); with
    "jensen-shannon" D is a classical discriminator, unclipped (Goodfellow et al. 2014,
    https://arxiv.org/abs/1406.2661). Q has one Adam for both of its updates: with an optimiser of
    its own, the regulariser's step would not depend on lambda, because Adam divides a gradient's
    scale away. ``beta1`` is the momentum of all three: Algorithm 1 leaves it open, so it is Adam's
    0.9. With many embedding dimensions and few batches the embeddings' mean then swings around the
    prior's, as Arjovsky et al. warn; 0 is calmer.
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
        divergence: str = "wasserstein",
        beta1: float = 0.9,
        pretrain_epochs: int = 0,
        pretrain_lr: float = 1e-3,
    ) -> None:
        super().__init__(
            info,
            training=training,
            width=width,
            code_dim=code_dim,
            architecture=architecture,
            classifier_lr=classifier_lr,
            pretrain_epochs=pretrain_epochs,
            pretrain_lr=pretrain_lr,
        )
        if divergence not in DIVERGENCES:
            raise unknown_name("divergence", divergence, DIVERGENCES)
        if not (lam >= 0 and clip > 0):
            raise UsageError("lam must be at least 0 and clip above 0")
        if not 0 <= beta1 < 1:
            raise UsageError("beta1 must be at least 0 and below 1")
        self.discriminator_lr = discriminator_lr
        self.lam = lam
        self.clip = clip
        self.divergence = divergence
        self.beta1 = beta1
        self.discriminator = discriminator(code_dim)

    def algorithm(self, rng: torch.Generator) -> tuple[Step, list[Optimizer]]:
        """Return Algorithm 1's step, three one-step Adam updates a batch, and its optimisers."""
        lr, betas = self.settings.lr, (self.beta1, 0.999)
        q = Adam(self.encoder.parameters(), lr=lr, betas=betas)
        c = Adam(self.classifier.parameters(), lr=lr * self.classifier_lr, betas=betas)
        d = Adam(self.discriminator.parameters(), lr=lr * self.discriminator_lr, betas=betas)

        def step(x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
            attacked = self.attacked_images(x, y, rng)
            z = torch.randn(len(x), self.code_dim, generator=rng, device=x.device)
            embeddings, loss = self.classification(x, attacked, y)
            gap = self.update_discriminator(d, z, embeddings.detach())
            self.update_classification(q, c, loss)
            self.update_encoder(q, x if attacked is None else attacked)
            return {"loss": loss.detach(), "code_gap": gap}

        return step, [q, c, d]

    def attacked_images(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor | None:
        """Return adversarial examples of the batch to train on, or None for clean training."""
        return None

    def classification(
        self, x: Tensor, attacked: Tensor | None, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the embeddings z~ (N, k) to regularise and the cross-entropy to descend.

        With adversarial training the embeddings are those of the attacked images, and the loss is
        the mean of the clean and the adversarial one.
        """
        embeddings = self.encoder(x)
        loss = F.cross_entropy(self.classifier(embeddings), y)
        if attacked is None:
            return embeddings, loss
        embeddings = self.encoder(attacked)
        return embeddings, (loss + F.cross_entropy(self.classifier(embeddings), y)) / 2

    def update_discriminator(self, d: Optimizer, z: Tensor, embeddings: Tensor) -> Tensor:
        """Ascend lambda times what D maximises by one step, and clip (line 7).

        Wasserstein: mean log D(z) - mean log D(z~). Jensen-Shannon: mean log D(z) + mean
        log(1 - D(z~)), without clipping. Returns D's estimate of the divergence before the step.
        """
        prior, ours = self.discriminator(z), self.discriminator(embeddings)
        if self.divergence == "jensen-shannon":
            # 1 - sigmoid(s) = sigmoid(-s). The maximum over all D is 2 JS - 2 log 2.
            objective = F.logsigmoid(prior).mean() + F.logsigmoid(-ours).mean()
            descend(-self.lam * objective, d)
            return objective.detach() / 2 + math.log(2)
        objective = F.logsigmoid(prior).mean() - F.logsigmoid(ours).mean()
        descend(-self.lam * objective, d)
        with torch.no_grad():
            for parameter in self.discriminator.parameters():
                parameter.clamp_(-self.clip, self.clip)
        return objective.detach()

    def update_classification(self, q: Optimizer, c: Optimizer, loss: Tensor) -> None:
        """Descend the cross-entropy by one step of Q and one of C (line 8)."""
        descend(loss, q, c)

    def update_encoder(self, q: Optimizer, x: Tensor) -> None:
        """Ascend lambda mean log D(Q(x)) by one step of Q (line 9), under either divergence."""
        log_d = F.logsigmoid(self.discriminator(self.encoder(x)))
        descend(-self.lam * log_d.mean(), q)


class OTClassifierAdv(OTClassifier):
    """OT-CLA+Adv: Algorithm 1 on PGD examples of each batch (Table 1)."""

    def attacked_images(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """Return PGD examples of the batch against the model in its present state."""
        return adversarial_examples(self, x, y, self.settings, rng)
