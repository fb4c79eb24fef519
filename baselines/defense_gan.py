"""Defense-GAN (Samangouei et al. 2018, https://arxiv.org/abs/1805.06605).

A classifier that never sees the image x itself, but the nearest image G(z*) that a generator can
make: z* minimises ||G(z) - x||^2, searched from R random latents by L steps of gradient descent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from baselines.undefended import Undefended
from baselines.wgan_gp import Critic, Game, Generator
from benchmark.datasets import DatasetInfo, ImageDataset
from benchmark.errors import UsageError, unknown_name
from benchmark.models.defense import Defense
from benchmark.progress import Progress
from benchmark.seeding import generator, seeded
from benchmark.stats import wilson_interval
from benchmark.training import TrainingLog, TrainingSettings, train
from benchmark.training.resume import once

DEFAULT = TrainingSettings()

CLAIMED = ("mnist", "fashion_mnist")
"""The datasets on which its paper evaluates it."""

TRAINED_ON = ("reconstructions", "originals")

CHUNK = 512
"""Latents searched at a time: bounds the memory, and costs the CPU no speed."""

MOMENTUM = 0.7
LAST_FIFTH = 0.1
"""The search's momentum, and the share of its rate that the last fifth of the steps takes: as in
the authors' code; the paper does not state them."""


class DefenseGAN(Defense):
    """The classifier of an image's nearest neighbour in the range of a WGAN-GP's generator.

    The search minimises the mean square error over the pixels, as the authors' code does, with
    ``rec_steps`` (L) steps at rate ``rec_lr`` from each of ``rec_restarts`` (R) latents drawn from
    N(0, I / latent_dim), new at every pass; the nearest end point of the R is taken.

    ``training`` and ``architecture`` are the classifier's, ``width`` scales its channels and those
    of the GAN, unless ``gan_width`` gives the latter. The GAN trains for ``gan_epochs`` passes of
    the critic over the images. The classifier learns from the ``train_on`` "reconstructions" of
    the training images, rounded to grey levels, or from the "originals".
    """

    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = False
    exact_surrogate: ClassVar[bool] = True

    def __init__(
        self,
        info: DatasetInfo,
        *,
        training: TrainingSettings = DEFAULT,
        width: float = 1.0,
        architecture: str | None = None,
        latent_dim: int = 128,
        gan_width: float | None = None,
        gan_epochs: int = 20,
        gan_batch_size: int = 50,
        gan_lr: float = 1e-4,
        gan_betas: Sequence[float] = (0.5, 0.9),
        n_critic: int = 5,
        gradient_penalty: float = 10.0,
        rec_steps: int = 200,
        rec_restarts: int = 10,
        rec_lr: float = 10.0,
        train_on: str = "reconstructions",
    ) -> None:
        super().__init__(info)
        if train_on not in TRAINED_ON:
            raise unknown_name("train_on", train_on, TRAINED_ON)
        if min(latent_dim, n_critic, rec_steps, rec_restarts) < 1:
            raise UsageError(
                "defense-gan: latent_dim, n_critic, rec_steps and rec_restarts must be at least 1"
            )
        self.latent_dim: int = latent_dim
        self.settings = training
        self.gan_settings = replace(
            training,
            epochs=gan_epochs,
            batch_size=gan_batch_size,
            lr=gan_lr,
            halve_every=0,
            augment=False,  # shifted and padded images would be learned as images
            holdout=0,
        )
        self.gan_betas = gan_betas
        self.n_critic = n_critic
        self.gradient_penalty = gradient_penalty
        self.rec_steps = rec_steps
        self.rec_restarts = rec_restarts
        self.rec_lr = rec_lr
        self.train_on = train_on
        gan_width = width if gan_width is None else gan_width
        self.generator = Generator(info, latent_dim, gan_width)
        self.critic = Critic(info, gan_width)
        self.classifier = Undefended(
            info, training=training, width=width, architecture=architecture
        )

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`benchmark.models.defense.Defense.forward`; no gradient reaches the images."""
        return self.classify_generated(self.reconstruct(x))

    def surrogate(self, x: Tensor) -> Tensor:
        """Return :meth:`forward`'s logits, with the identity for the search in the backward pass.

        The gradient is the classifier's at the reconstruction (Athalye et al. 2018,
        https://arxiv.org/abs/1802.00420).
        """
        return self.classify_generated(self.reconstruct(x) + (x - x.detach()))

    def generate(self, z: Tensor) -> Tensor:
        """See :meth:`benchmark.models.defense.Defense.generate`."""
        images: Tensor = self.generator(z)
        return images

    def classify_generated(self, x: Tensor) -> Tensor:
        """See :meth:`benchmark.models.defense.Defense.classify_generated`: the classifier alone."""
        logits: Tensor = self.classifier(x)
        return logits

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the nearest images G(z) found for ``x`` (N, C, H, W), without a graph."""
        at_a_time = max(1, CHUNK // self.rec_restarts)
        return torch.cat([self._search(part) for part in torch.split(x.detach(), at_a_time)])

    def _search(self, x: Tensor) -> Tensor:
        restarts = self.rec_restarts
        wanted = x.repeat_interleave(restarts, dim=0)
        z = torch.randn(len(wanted), self.latent_dim, device=x.device) / self.latent_dim**0.5
        speed = torch.zeros_like(z)
        for t in range(self.rec_steps):
            with torch.enable_grad():
                z.requires_grad_()
                error = _mean_square(self.generator(z), wanted)
                (slope,) = torch.autograd.grad(error.sum(), z)
            last_fifth = t >= 0.8 * self.rec_steps
            speed = MOMENTUM * speed + slope
            z = z.detach() - self.rec_lr * (LAST_FIFTH if last_fifth else 1.0) * speed
        with torch.no_grad():
            images: Tensor = self.generator(z)
            nearest = _mean_square(images, wanted).view(-1, restarts).argmin(dim=1)
        return images[torch.arange(len(x), device=x.device) * restarts + nearest]

    def fit(self, data: ImageDataset, *, seed: int, progress: Progress) -> TrainingLog:
        """Train the GAN, reconstruct the training images if asked to, train the classifier.

        The log holds the GAN's epochs first (``gan_epoch``), then the classifier's (``epoch``),
        whose accuracies are its own, on held-out images of the kind that it learns from.
        """
        gan, between = self._fit_gan(data, seed + 1, progress), 0.0
        if self.train_on == "reconstructions":
            data, between = self._reconstructed(data, seed + 2, progress)
        log = self.classifier.fit(data, seed=seed + 3, progress=progress)
        return TrainingLog([*gan.epochs, *log.epochs], gan.seconds + between + log.seconds)

    def _fit_gan(self, data: ImageDataset, seed: int, progress: Progress) -> TrainingLog:
        game = Game(
            self.generator,
            self.critic,
            latent_dim=self.latent_dim,
            penalty=self.gradient_penalty,
            n_critic=self.n_critic,
            lr=self.gan_settings.lr,
            betas=self.gan_betas,
            rng=generator(seed, data.device),
        )
        log = train(
            self,
            data,
            step=game.step,
            optimizers=[game.d],  # for the schedule, and there is none
            settings=self.gan_settings,
            seed=seed,
            progress=progress,
            state=[game],
        )
        names = {"epoch": "gan_epoch", "loss": "critic_loss"}
        rows = [{names.get(key, key): row[key] for key in row} for row in log.epochs]
        return TrainingLog(rows, log.seconds)

    def _reconstructed(
        self, data: ImageDataset, seed: int, progress: Progress
    ) -> tuple[ImageDataset, float]:
        """Return ``data`` with every image replaced by its reconstruction, and the seconds."""

        def reconstruct() -> Tensor:
            found = []
            with (
                seeded(seed, data.device),
                progress.task("reconstructing the training images", len(data)) as advance,
            ):
                for rows in data.batches(CHUNK):
                    found.append((self.reconstruct(data.x(rows)) * 255).round().to(torch.uint8))
                    advance(len(rows))
            return torch.cat(found)

        images, seconds = once(reconstruct, data.device)
        found = ImageDataset.from_tensors(
            data.info,
            images,
            data.labels,
            data.sample_ids,
            source=data.source,
            n_available=data.n_available,
        )
        return found, seconds

    @torch.no_grad()
    def measure(self, data: ImageDataset) -> Mapping[str, Any]:
        """Return the ``reconstruction_error`` and the ``clean_accuracy`` on ``data``.

        The error is the mean over the images of the mean square over the pixels, with a normal
        95 % interval, the accuracy has Wilson's; ``notes`` say where the paper claims nothing.
        """
        errors, right = [], []
        for rows in data.batches(CHUNK):
            x = data.x(rows)
            found = self.reconstruct(x)
            errors.append(_mean_square(found, x).double().cpu())
            right.append((self.classifier.predict(found) == data.labels[rows]).cpu())
        error, n_right = torch.cat(errors), int(torch.cat(right).sum())
        half = 1.96 * float(error.std()) / len(data) ** 0.5 if len(data) > 1 else float("nan")
        low, high = wilson_interval(n_right, len(data))
        return {
            "reconstruction_error": _interval(float(error.mean()), half, len(data)),
            "clean_accuracy": {
                "value": n_right / len(data),
                "ci_low": low,
                "ci_high": high,
                "n": len(data),
            },
            "notes": self._notes(),
        }

    def _notes(self) -> list[str]:
        if self.info.name in CLAIMED:
            return []
        return [
            f"Defense-GAN on {self.info.name} is beyond what its paper claims: it was shown on"
            " MNIST and Fashion-MNIST"
        ]


def _mean_square(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean square difference (N,) over the pixels of two batches of images."""
    return (x - y).square().flatten(1).mean(dim=1)


def _interval(value: float, half: float, n: int) -> dict[str, float]:
    return {"value": value, "ci_low": max(0.0, value - half), "ci_high": value + half, "n": n}
