"""What an attack sees of a defense: logits, loss gradients and nothing else.

An attack receives an :class:`AttackView`, never the defense. The view freezes the parameters,
keeps evaluation mode, averages over fresh noise (EOT, Athalye et al. 2018,
https://arxiv.org/abs/1707.07397), takes the value from ``forward`` and the gradient from
``surrogate`` (BPDA, https://arxiv.org/abs/1802.00420), and counts every query of every sample.

Of a defense with a generator an attack may also ask for the images of latents, and for what the
classifier behind the generator answers: an attacker in the latent space knows both networks. It
cannot reach into the search for an image's latents.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from benchmark.attacks.losses import Loss
from benchmark.errors import PluginError
from benchmark.models.defense import Defense

INSIDE = 1e-6
"""How far inside [0, 1] a clamping defense is differentiated (docs/constants.md)."""

LOOK = {"cuda": 8}
"""Queries per check that the answers are finite, by device; 1 elsewhere."""


class MissingGradientError(PluginError, RuntimeError):
    """A defense whose answers do not lead back to the image, and which does not say so."""

    def __init__(self) -> None:
        super().__init__(
            "no gradient of the defense reaches the image: let forward keep the graph, or say"
            " differentiable = False and name a surrogate, for BPDA"
        )


class AttackView(nn.Module):
    """A batch's view of a defense; a Module, because ART and torchattacks expect one.

    ``rows`` is the number of images in the batch that the view belongs to. A query with that
    many images counts one for each; one with another number counts its share for each. ``dtype``
    is what :meth:`gradient` computes in (:mod:`benchmark.attacks.precision`).

    NaN and infinite entries of a gradient reach no attack: where the gradient arrives at the
    images, in :meth:`gradient` and for a library that differentiates :meth:`forward`, a NaN
    becomes 0, and an infinity keeps its sign and takes the size of the image's largest finite
    entry (1 if there is none). :meth:`dropped` tells at how many images. An audit that wants to
    see them sets ``drops`` to False.
    """

    def __init__(
        self, defense: Defense, rows: int, *, eot: int = 1, bpda: bool = False, inside: float = 0.0
    ) -> None:
        super().__init__()
        self.training = False
        self.defense = defense
        self.rows = rows
        self.eot = eot
        self.bpda = bpda
        self.inside = inside
        self.dtype = torch.float32
        self.drops = True
        self._forwards = 0.0
        self._backwards = 0.0
        self._queries = 0
        self._broken = torch.zeros((), dtype=torch.int64)
        self._dropped = torch.zeros((), dtype=torch.bool)
        self._dropped_elsewhere = torch.zeros((), dtype=torch.int64)
        self._selected: list[tuple[Tensor, AttackView]] = []

    @property
    def stochastic(self) -> bool:
        """Whether two queries with the same images may give different answers."""
        return self.defense.stochastic

    @property
    def latent_dim(self) -> int:
        """The number of latents of the defense's generator; ValueError if it has none."""
        if self.defense.latent_dim is None:
            raise ValueError(f"{type(self.defense).__name__} has no generator")
        return self.defense.latent_dim

    def train(self, mode: bool = True) -> "AttackView":
        """Stay in evaluation mode: attack libraries like to switch modes."""
        return self

    def batch(self, rows: int) -> "AttackView":
        """Return a view for another batch of ``rows`` images, its counts at zero."""
        view = AttackView(self.defense, rows, eot=self.eot, bpda=self.bpda, inside=self.inside)
        view.dtype = self.dtype
        view.drops = self.drops
        return view

    def select(self, index: Tensor) -> "AttackView":
        """Return a view of the rows ``index`` (int64) whose queries count for those rows."""
        view = self.batch(len(index))
        self._selected.append((index, view))
        return view

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) of images ``x`` (N, C, H, W), averaged over ``eot`` draws."""
        logits = self._query(x)
        for _ in range(self.eot - 1):
            logits = logits + self._query(x)
        return logits if self.eot == 1 else logits / self.eot

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Return logits (N, K) without a graph, averaged over ``eot`` draws."""
        mean: Tensor = self(x)
        return mean

    def gradient(self, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss (N,), the logits (N, K) and the loss's gradient (N, C, H, W) at ``x``.

        The loss, not the logits, is averaged over ``eot`` draws; each draw's graph is freed
        before the next, so memory does not grow with ``eot``. All three are float32; with a
        coarser ``dtype`` they are that precise, and :meth:`logits` says what the model answers.
        :class:`MissingGradientError` if there is none.
        """
        x = x.detach().requires_grad_()
        total: list[Tensor] | None = None
        with torch.enable_grad():
            for _ in range(self.eot):
                logits = self._coarse_query(x)
                losses = loss(logits, y)
                if not losses.requires_grad:
                    raise MissingGradientError
                (gradient,) = torch.autograd.grad(losses.sum(), x, allow_unused=True)
                if gradient is None:
                    raise MissingGradientError
                draw = [losses.detach(), logits.detach(), gradient]
                total = draw if total is None else [a + b for a, b in zip(total, draw, strict=True)]
        assert total is not None
        value, answers, slope = total if self.eot == 1 else [part / self.eot for part in total]
        return value, answers, slope

    def generate(self, z: Tensor) -> Tensor:
        """Return the images (N, C, H, W) in [0, 1] of latents ``z`` (N, latent_dim).

        A pass through the generator alone counts as a query, too.
        """
        return self._counted(self.defense.generate(self._dropping(z)))

    def classify_latents(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images of ``z`` and the logits (N, K) of the classifier behind the generator.

        One query. Neither EOT nor BPDA applies: both networks are differentiated as they are.
        """
        images = self.defense.generate(self._dropping(z))
        return images, self._counted(self.defense.classify_generated(images))

    def counts(self) -> tuple[Tensor, Tensor]:
        """Return the forwards and backwards so far, per row: two int64 tensors (rows,), CPU."""
        forwards, backwards = self._counts()
        return forwards.round().long(), backwards.round().long()

    def broken(self) -> int:
        """Return how many answers so far were not finite for images in [0, 1] (see ``LOOK``)."""
        return int(self._broken) + sum(view.broken() for _, view in self._selected)

    def dropped(self) -> int:
        """Return at how many images entries of a gradient were dropped so far.

        Of queries with another number of images than ``rows``, the most in one of them.
        """
        rows, elsewhere = self._dropped_rows()
        return max(int(rows.sum()), elsewhere)

    def _dropped_rows(self) -> tuple[Tensor, int]:
        rows = self._dropped.cpu().expand(self.rows).clone()
        elsewhere = int(self._dropped_elsewhere)
        for index, view in self._selected:
            some, more = view._dropped_rows()
            rows[index.cpu()] |= some
            elsewhere = max(elsewhere, more)
        return rows, elsewhere

    def _dropping(self, x: Tensor) -> Tensor:
        """Return ``x``, through which a gradient passes without its NaN and infinities."""
        if not (self.drops and x.requires_grad and torch.is_grad_enabled()):
            return x
        x = x.view_as(x)  # a tensor of this query's own: hooks on the attack's would pile up
        x.register_hook(self._finite)  # type: ignore[no-untyped-call]
        return x

    def _finite(self, gradient: Tensor) -> Tensor:
        # A finite sum has finite terms, but asking for it would wait for a GPU.
        if not gradient.is_cuda and math.isfinite(gradient.sum().item()):
            return gradient
        broken = ~gradient.isfinite()
        images = broken.flatten(1).any(1)
        if len(images) == self.rows:
            self._dropped = self._dropped.to(images.device) | images
        else:
            most = self._dropped_elsewhere.to(images.device)
            self._dropped_elsewhere = torch.maximum(most, images.sum())
        kept = gradient.masked_fill(broken, 0)
        # An overflow loses an entry's size, not its sign; one pixel must not outweigh the rest.
        largest = kept.flatten(1).abs().amax(1)
        size = torch.where(largest > 0, largest, 1).view(-1, *[1] * (gradient.dim() - 1))
        return torch.where(gradient.isinf(), gradient.sign() * size, kept)

    def _counts(self) -> tuple[Tensor, Tensor]:
        forwards = torch.full((self.rows,), self._forwards, dtype=torch.float64)
        backwards = torch.full((self.rows,), self._backwards, dtype=torch.float64)
        for index, view in self._selected:
            more_forwards, more_backwards = view._counts()
            forwards.index_add_(0, index.cpu(), more_forwards)
            backwards.index_add_(0, index.cpu(), more_backwards)
        return forwards, backwards

    def _coarse_query(self, x: Tensor) -> Tensor:
        """Query in ``dtype``; in float32 the defense is left to itself."""
        if self.dtype == torch.float32:
            return self._query(x)
        with torch.autocast(x.device.type, dtype=self.dtype):
            return self._query(x).float()

    def _query(self, x: Tensor) -> Tensor:
        """One pass through the defense, counted."""
        x = self._dropping(x)
        if self.inside:
            # Evaluate just inside the box; the gradient passes to x as it is.
            x = x + (x.detach().clamp(self.inside, 1 - self.inside) - x.detach())
        if not self.bpda:
            return self._counted(self._looked_at(x, self.defense(x)))
        if self.defense.exact_surrogate:
            return self._counted(self._looked_at(x, self.defense.surrogate(x)))
        with torch.no_grad():
            value = self.defense(x)
        stand_in = self.defense.surrogate(x)
        if stand_in.shape != value.shape:
            raise PluginError(
                f"surrogate returned shape {tuple(stand_in.shape)} where forward returned"
                f" {tuple(value.shape)}; they must be alike"
            )
        answer = stand_in + (value - stand_in).detach()
        return self._counted(self._looked_at(x, answer), passes=2)

    def _looked_at(self, x: Tensor, answer: Tensor) -> Tensor:
        """Return an answer as logits; count what is not finite, unless a coarser ``dtype`` or the
        image may be the reason."""
        answer = self.defense.answer_form.logits(answer, x)
        self._queries += 1
        if self.dtype != torch.float32 or self._queries % LOOK.get(x.device.type, 1):
            return answer
        # The sum tells in one operation, but would wait for a GPU.
        if x.is_cuda or not math.isfinite(answer.detach().sum().item()):
            broken = ~answer.detach().isfinite().flatten(1).all(1)
            inside = ((x >= 0) & (x <= 1)).flatten(1).all(1)
            self._broken = self._broken.to(x.device) + (broken & inside).sum()
        return answer

    def _counted(self, answer: Tensor, passes: int = 1) -> Tensor:
        """Count a query that took ``passes``; its backward pass counts itself by a hook."""
        share = 1.0 if len(answer) == self.rows else len(answer) / self.rows
        self._forwards += passes * share
        if answer.requires_grad:
            answer.register_hook(  # type: ignore[no-untyped-call]
                lambda _: self._count_backward(share)
            )
        return answer

    def _count_backward(self, share: float) -> None:
        self._backwards += share


@contextmanager
def attack_view(
    defense: Defense, rows: int, *, eot: int = 1, bpda: bool = False, inside: float = 0.0
) -> Iterator[AttackView]:
    """Open a view of ``defense`` for a batch of ``rows`` images.

    Inside the block the parameters are frozen and the defense is in evaluation mode; both are as
    before afterwards, so that adversarial training can attack the model that it trains.
    """
    training = {module: module.training for module in defense.modules()}
    trained = [p for p in defense.parameters() if p.requires_grad]
    defense.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield AttackView(defense, rows, eot=eot, bpda=bpda, inside=inside)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, mode in training.items():
            module.training = mode


def clamps_input(view: AttackView, x: Tensor, y: Tensor, loss: Loss) -> bool:
    """Tell whether the defense hides gradients at the edge of the box by clamping its input.

    Since PyTorch 2.14 ``clamp`` passes no gradient at its bounds, so a model that clamps shows an
    attacker exactly zero on every pixel that is 0 or 1, and most pixels of MNIST are. A defense
    that does so has a gradient of exactly zero on all edge pixels, but not just inside.
    """
    if not (view.bpda or view.defense.differentiable):
        return False  # it shows no gradient that a clamp could hide
    edge = (x == 0) | (x == 1)
    if not edge.any():
        return False
    probe = view.batch(len(x))
    probe.inside = 0.0
    if probe.gradient(x, y, loss)[2][edge].any():
        return False
    probe.inside = INSIDE
    return bool(probe.gradient(x, y, loss)[2][edge].any())
