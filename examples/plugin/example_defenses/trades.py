"""TRADES (Zhang et al. 2019, https://arxiv.org/abs/1901.08573), a defense by training."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam

from baselines.undefended import Undefended
from benchmark import DatasetInfo, ImageDataset, TrainingLog, attack_view
from benchmark.attacks.norms import project
from benchmark.errors import UsageError
from benchmark.progress import Progress
from benchmark.seeding import generator
from benchmark.training import TrainingSettings, train


class Trades(Undefended):
    """The plain classifier f, trained for clean accuracy and for answers that change little.

    It minimises CE(f(x), y) + beta max KL(f(x) || f(x')) over its weights, with x' in the l-inf
    ball of radius ``training.adversary_eps`` around x. A larger ``beta`` trades clean accuracy for
    robustness; the paper has 1 and 6.
    """

    def __init__(
        self,
        info: DatasetInfo,
        *,
        training: TrainingSettings = TrainingSettings(),  # noqa: B008 (it is frozen)
        width: float = 1.0,
        architecture: str | None = None,
        beta: float = 6.0,
    ) -> None:
        super().__init__(info, training=training, width=width, architecture=architecture)
        if not beta >= 0:
            raise UsageError(f"trades: beta must be at least 0, got {beta}")
        self.beta = beta

    def fit(self, data: ImageDataset, *, seed: int, progress: Progress) -> TrainingLog:
        """Minimise the loss with Adam; the log holds its two parts as well."""
        optimizer = Adam(self.parameters(), lr=self.settings.lr)
        rng = generator(seed + 1, data.device)  # apart from the loop's own, which orders the data

        def step(x: Tensor, y: Tensor) -> dict[str, Tensor]:
            x_adv = self.furthest(x, y, rng)
            logits = self(x)
            clean = F.cross_entropy(logits, y)
            change = divergence(logits, self(x_adv)).mean()
            loss = clean + self.beta * change
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            parts = {"loss": loss, "clean_loss": clean, "divergence": change}
            return {name: part.detach() for name, part in parts.items()}

        return train(
            self,
            data,
            step=step,
            optimizers=[optimizer],
            settings=self.settings,
            seed=seed,
            progress=progress,
            state=[rng],  # so that a training that was killed goes on where it was
        )

    def furthest(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """Return the images x' (N, C, H, W) in the ball whose answers are furthest from f(x)."""
        eps, steps = self.settings.adversary_eps, self.settings.adversary_steps
        step_size = self.settings.adversary_step_size or 2.5 * eps / steps
        # The divergence has no slope at x itself, so the ascent starts beside it.
        noise = torch.randn(x.shape, generator=rng, device=x.device)
        x_adv = project(x + 0.001 * noise, x, eps, "linf")
        with attack_view(self, len(x)) as view:
            clean = view.logits(x)
            for _ in range(steps):
                _, _, slope = view.gradient(x_adv, y, lambda logits, _: divergence(clean, logits))
                x_adv = project(x_adv + step_size * slope.sign(), x, eps, "linf")
        return x_adv


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """Return KL(p || q) (N,) between the answers p and q with logits ``clean`` and ``attacked``."""
    p, q = clean.log_softmax(1), attacked.log_softmax(1)
    return F.kl_div(q, p, reduction="none", log_target=True).sum(1)
