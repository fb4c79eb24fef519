"""E-CLA: the OT-Classifier's encoder and classifier without its regulariser (section 4.2)."""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam

from benchmark.datasets import DatasetInfo, ImageDataset
from benchmark.defense import Defense
from benchmark.layers import default_architecture
from benchmark.progress import Progress
from benchmark.training import TrainingLog, TrainingSettings, train
from defenses.networks import code_classifier, encoder

DEFAULT = TrainingSettings()


class EncoderClassifier(Defense):
    """C(Q(x)): an encoder Q into ``code_dim`` dimensions and a classifier C on the codes.

    Q learns with the training settings' ``lr`` and C with ``classifier_lr`` times it (the authors'
    scripts: 0.05). ``architecture`` names the encoder, by default the paper's for the image size.
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
    ) -> None:
        super().__init__(info)
        self.settings = training
        self.code_dim = code_dim
        self.classifier_lr = classifier_lr
        architecture = architecture or default_architecture(info)
        self.encoder = encoder(info, code_dim, architecture, width)
        self.classifier = code_classifier(info, code_dim, architecture)

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`benchmark.defense.Defense.forward`."""
        logits: Tensor = self.classifier(self.encoder(x))
        return logits

    def embed(self, x: Tensor) -> Tensor:
        """Return the codes Q(x), (N, code_dim)."""
        codes: Tensor = self.encoder(x)
        return codes

    def fit(self, data: ImageDataset, *, seed: int, progress: Progress) -> TrainingLog:
        """Minimise the cross-entropy of C(Q(x)) with Adam."""
        q = Adam(self.encoder.parameters(), lr=self.settings.lr)
        c = Adam(self.classifier.parameters(), lr=self.settings.lr * self.classifier_lr)

        def step(x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
            loss = F.cross_entropy(self(x), y)
            for optimizer in (q, c):
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            q.step()
            c.step()
            return {"loss": loss.detach()}

        return train(
            self,
            data,
            step=step,
            optimizers=[q, c],
            settings=self.settings,
            seed=seed,
            progress=progress,
        )
