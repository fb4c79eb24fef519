"""Unusual models that hide nothing: what a sound audit has to leave alone.

Each is trained on the bench's images in a few seconds. What is unusual about it (attention, smooth
units, rounded weights, a steep front end, training against an attack) may bend a gradient, yet an
attack that follows it finds what there is.
"""

from collections.abc import Callable, Mapping

import torch
from maskings import Bare, Bench
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.attacks.losses import cross_entropy
from benchmark.attacks.norms import project
from benchmark.attacks.pgd import FGSM
from benchmark.attacks.view import attack_view
from benchmark.datasets import DatasetInfo, ImageDataset
from benchmark.models.defense import Defense
from benchmark.seeding import generator, seeded

Loss = Callable[[Defense, Tensor, Tensor, torch.Generator], Tensor]


def plain_loss(model: Defense, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
    """The cross-entropy on clean images."""
    return F.cross_entropy(model(x), y)


def fit(
    model: Defense,
    data: ImageDataset,
    loss: Loss = plain_loss,
    *,
    epochs: int = 6,
    lr: float = 2e-3,
) -> Defense:
    """Train ``model`` and freeze it."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    rng = generator(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(data), generator=rng).split(50):
            value = loss(model, data.x(rows), data.labels[rows], rng)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


# --- architectures -------------------------------------------------------------------------------


class Block(nn.Module):
    """Self-attention and an MLP, each behind a LayerNorm and beside a skip."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, t: Tensor) -> Tensor:
        n, tokens, width = t.shape
        parts = self.qkv(self.norms[0](t)).view(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width)
        t = t + self.out(seen)
        return t + self.mlp(self.norms[1](t))


class SmallViT(Defense):
    """Sixteen patches, two blocks of attention (https://arxiv.org/abs/2010.11929)."""

    def __init__(self, info: DatasetInfo, width: int = 48) -> None:
        super().__init__(info)
        c, h, _ = info.shape
        self.patches = nn.Conv2d(c, width, h // 4, stride=h // 4)
        self.places = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.Sequential(Block(width, 4), Block(width, 4), nn.LayerNorm(width))
        self.head = nn.Linear(width, info.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x * 2 - 1).flatten(2).transpose(1, 2) + self.places
        return self.head(self.blocks(tokens).mean(1))


class SmoothUnits(Defense):
    """GELU and LayerNorm in place of ReLU."""

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__(info)
        c, h, _ = info.shape
        side = ((h + 1) // 2 + 1) // 2
        self.network = nn.Sequential(
            nn.Conv2d(c, 12, 5, stride=2, padding=2),
            nn.GroupNorm(1, 12),
            nn.GELU(),
            nn.Conv2d(12, 24, 5, stride=2, padding=2),
            nn.Flatten(),
            nn.LayerNorm(24 * side * side),
            nn.GELU(),
            nn.Linear(24 * side * side, info.n_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x * 2 - 1)


class Rounded(nn.Module):
    """A weight rounded to ``bits`` bits; training passes the gradient straight through."""

    def __init__(self, bits: int = 4) -> None:
        super().__init__()
        self.levels = 2 ** (bits - 1) - 1

    def forward(self, w: Tensor) -> Tensor:
        scale = w.detach().abs().amax() / self.levels
        return w + ((w / scale).round() * scale - w).detach()


class QuantisationAware(Bare):
    """Weights of four bits, trained as such (https://arxiv.org/abs/1712.05877)."""

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__(info)
        for layer in self.network:
            if hasattr(layer, "weight"):
                nn.utils.parametrize.register_parametrization(layer, "weight", Rounded())


class Ensemble(Defense):
    """The mean logits of three networks."""

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__(info)
        self.members = nn.ModuleList([Bare(info) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


class SteepSigmoid(Bare):
    """Pixels pushed to 0 or 1 by a steep, smooth step: less of a small perturbation is left."""

    steepness = 15.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.sigmoid(self.steepness * (x - 0.5)))


# --- trained against an attack -------------------------------------------------------------------

EPS = 0.15


def fgsm_loss(model: Defense, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
    """The cross-entropy on images of one full step from a random start
    (https://arxiv.org/abs/2001.03994)."""
    attack = FGSM(random_start=True)
    with attack_view(model, len(x)) as view:
        x_adv = attack.run(view, x, y, eps=EPS, generator=rng)
    return F.cross_entropy(model(x_adv), y)


def trades_loss(model: Defense, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
    """The clean cross-entropy and the distance of the answers beside the image
    (https://arxiv.org/abs/1901.08573)."""
    clean = model(x).log_softmax(1)
    x_adv = x + 1e-3 * torch.randn(x.shape, generator=rng)
    for _ in range(3):
        x_adv = x_adv.detach().requires_grad_()
        far = F.kl_div(model(x_adv).log_softmax(1), clean.detach().exp(), reduction="sum")
        (slope,) = torch.autograd.grad(far, x_adv)
        x_adv = project(x_adv + EPS / 2 * slope.sign(), x, EPS, "linf").detach()
    far = F.kl_div(model(x_adv).log_softmax(1), clean.exp(), reduction="batchmean")
    return cross_entropy(clean, y).mean() + 6 * far


def _trained(cls: Callable[[DatasetInfo], Defense], loss: Loss = plain_loss, epochs: int = 6):
    def build(bench: Bench) -> Defense:
        with seeded(0):
            model = cls(bench.train.info)
        return fit(model, bench.train, loss, epochs=epochs)

    return build


HONEST: Mapping[str, Callable[[Bench], Defense]] = {
    "SmallViT": _trained(SmallViT, epochs=12),
    "SmoothUnits": _trained(SmoothUnits),
    "QuantisationAware": _trained(QuantisationAware),
    "Ensemble": _trained(Ensemble),
    "Trades": _trained(Bare, trades_loss),
    "FGSM": _trained(Bare, fgsm_loss),
    "SteepSigmoid": _trained(SteepSigmoid),
}
"""How each is built and trained on the bench's images."""
