"""The one training loop that the defenses share.

Data stay on the device as uint8; batches are index selections, augmented there. A defense gives
its own ``step`` (one batch, its own optimisers) and the loop does the rest: order, schedule,
progress, accuracy on a held-out slice, and a stop with a clear reason when the loss is not finite.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import StepLR

from benchmark.attacks.view import MissingGradientError, attack_view
from benchmark.datasets.augment import random_crop_flip
from benchmark.datasets.dataset import ImageDataset
from benchmark.errors import TrainingError
from benchmark.models.defense import Defense, TrainingLog
from benchmark.progress import Progress
from benchmark.seeding import generator, seeded
from benchmark.training.resume import Phase
from benchmark.training.settings import TrainingSettings
from benchmark.training.state_file import Part

Step = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""Takes images (N, C, H, W) in [0, 1] and labels (N,), updates the model, and returns detached
scalars to log, ``loss`` among them."""


Measure = Callable[[ImageDataset], Mapping[str, float]]
"""Numbers to log after an epoch, taken on the held-out slice."""


def adversarial_examples(
    defense: Defense, x: Tensor, y: Tensor, settings: TrainingSettings, rng: torch.Generator
) -> Tensor:
    """Return PGD examples (N, C, H, W) of a batch against the defense in its present state.

    The defense is attacked in evaluation mode, as an adversary of the finished model would.
    """
    with attack_view(defense, len(x)) as view:
        return settings.adversary.run(view, x, y, eps=settings.adversary_eps, generator=rng)


def train(
    defense: Defense,
    data: ImageDataset,
    *,
    step: Step,
    optimizers: Sequence[Optimizer],
    settings: TrainingSettings,
    seed: int,
    progress: Progress,
    measure: Measure | None = None,
    state: Sequence[Part] | None = None,
) -> TrainingLog:
    """Train ``defense`` with ``step`` over ``settings.epochs`` and return the log.

    ``data`` is a uint8 dataset on the model's device. ``state`` is what ``step`` and ``measure``
    change besides the model and ``optimizers``: generators that they draw from, other optimisers,
    anything with a ``state_dict``. With it a training that was killed goes on from its last epoch
    (:mod:`benchmark.training.resume`); without it, it starts again. Raises TrainingError when the
    loss is not finite. The model is left in evaluation mode.
    """
    start = time.perf_counter()
    rng = generator(seed, data.device)
    kept = min(settings.holdout, len(data) // 10)
    train_set, held_out = data.holdout(kept / len(data)) if kept else (data, None)
    schedules = [
        StepLR(optimizer, settings.halve_every or settings.epochs + 1, gamma=0.5)
        for optimizer in optimizers
    ]
    n_batches = max(1, len(train_set) // settings.batch_size)
    parts: list[Part] = [defense, *optimizers, *schedules, rng]
    phase = Phase(parts, state, epochs=settings.epochs, device=data.device)
    with (
        seeded(seed, data.device),  # dropout and a defense's own noise take no generator
        progress.task("training", settings.epochs * n_batches) as advance,
    ):
        epochs, before = phase.restore()
        advance(len(epochs) * n_batches)
        for epoch in range(len(epochs) + 1, settings.epochs + 1):
            epoch_start = time.perf_counter()
            defense.train()
            order = torch.randperm(len(train_set), generator=rng, device=data.device)
            totals: dict[str, Tensor] = {}
            for batch in range(n_batches):
                # The remainder is left out this epoch: batch norm needs more than one image.
                index = order[batch * settings.batch_size : (batch + 1) * settings.batch_size]
                x, y = train_set.x(index), train_set.labels[index]
                if settings.augment and data.info.augment:
                    x = random_crop_flip(x, padding=4, generator=rng)
                for name, value in step(x, y).items():
                    totals[name] = totals.get(name, torch.zeros_like(value)) + value
                # One look at the loss in 50 batches: each costs a GPU a synchronisation.
                if batch % 50 == 49 or batch == n_batches - 1:
                    _stop_if_broken(defense, totals["loss"], epoch, batch + 1)
                advance()
            row: dict[str, float] = {"epoch": epoch, "lr": float(schedules[0].get_last_lr()[0])}
            row |= {name: float(total) / n_batches for name, total in totals.items()}
            for schedule in schedules:
                schedule.step()
            defense.eval()
            if held_out is not None:
                row |= _held_out_accuracy(defense, held_out, settings, rng)
                if measure is not None:
                    row |= measure(held_out)
            row["seconds"] = time.perf_counter() - epoch_start
            epochs.append(row)
            advance(0, _status(row))
            phase.keep(epochs, before + time.perf_counter() - start)
    defense.eval()
    return TrainingLog(epochs, before + time.perf_counter() - start)


def _stop_if_broken(defense: Defense, total_loss: Tensor, epoch: int, batch: int) -> None:
    if not torch.isfinite(total_loss):
        raise TrainingError(
            f"{type(defense).__name__}: the loss is not finite (epoch {epoch}, by batch {batch});"
            " lower the learning rate"
        )


def _held_out_accuracy(
    defense: Defense, held_out: ImageDataset, settings: TrainingSettings, rng: torch.Generator
) -> dict[str, float]:
    """Clean accuracy on the held-out slice, and accuracy under PGD on up to 200 of its images.

    Without the latter where PGD has no gradient to follow, as with answers that are labels.
    """
    clean = [
        (defense.predict(held_out.x(rows)) == held_out.labels[rows])
        for rows in held_out.batches(250)
    ]
    row = {"clean_accuracy": float(torch.cat(clean).double().mean())}
    few = held_out.head(min(200, len(held_out)))
    x, y = few.x(), few.labels
    with suppress(MissingGradientError):
        fooled = adversarial_examples(defense, x, y, settings, rng)
        row["adversarial_accuracy"] = float((defense.predict(fooled) == y).double().mean())
    return row


def _status(row: Mapping[str, float]) -> str:
    parts = [f"loss {row['loss']:.3f}"]
    for name, key in (("clean", "clean_accuracy"), ("adversarial", "adversarial_accuracy")):
        if key in row:
            parts.append(f"{name} {row[key]:.3f}")
    return ", ".join(parts)
