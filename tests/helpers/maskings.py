"""The planted set: one trained model behind many ways to hide its gradient.

Every masking answers as the bare model does, or nearly, so that what an attack takes from the bare
model a sound audit takes from the masking too; ``reasons`` are the checks of which at least one
must raise its voice, and without any the verdict alone says so. ``Planted.memory`` alone is no
masking of gradients: it knows the test images.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.attacks.norms import random_start
from benchmark.attacks.view import MissingGradientError
from benchmark.audit.case import Case
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.datasets import DIGITS, DatasetInfo, ImageDataset
from benchmark.evaluation.scoring import inside_for
from benchmark.models.defense import Defense
from benchmark.registry import DATASETS
from benchmark.seeding import generator, seeded

LEVELS = 15


class Bare(Defense):
    """A small CNN without any defense; ``activation`` stands behind each convolution."""

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__(info)
        c, h, _ = info.shape
        side = ((h + 1) // 2 + 1) // 2
        self.network = nn.Sequential(
            nn.Conv2d(c, 12, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(12, 24, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24 * side * side, info.n_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x * 2 - 1)


def train_bare(data: ImageDataset, *, seed: int, epochs: int = 6) -> Bare:
    """Train on ``data`` in a second or two."""
    with seeded(seed):
        model = Bare(data.info)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    rng = generator(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(data), generator=rng).split(50):
            loss = F.cross_entropy(model(data.x(rows)), data.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Bench:
    """What the planted set is tried on: a model, another of the same data, and images."""

    bare: Bare
    other: Bare
    train: ImageDataset
    test: ImageDataset


def doubled(data: ImageDataset) -> ImageDataset:
    """Return the images at twice the size, so that a shift by a pixel is a small one."""
    c, h, w = data.info.shape
    info = replace(data.info, shape=(c, 2 * h, 2 * w))
    x = F.interpolate(data.x(), scale_factor=2, mode="bilinear")
    images = (x * 255).round().to(torch.uint8)
    ids, n = data.sample_ids, data.n_available
    return ImageDataset.from_tensors(
        info, images, data.labels, ids, source=data.source, n_available=n
    )


def make_bench(n_test: int, data_dir: Path | None = None) -> Bench:
    """Train the bare model and another one on MNIST in ``data_dir``, else on digits of 16 x 16
    pixels, which need no files."""
    if data_dir is None:
        train, test = doubled(DIGITS.load("train", n=600)), doubled(DIGITS.load("test", n=n_test))
    else:
        mnist = DATASETS.load("mnist")
        train = mnist.load("train", n=1500, data_dir=data_dir)
        test = mnist.load("test", n=n_test, data_dir=data_dir)
    return Bench(train_bare(train, seed=0), train_bare(train, seed=1), train, test)


def case_of(defense: Defense, bench: Bench, **options) -> Case:
    """The audit's view of a planted defense."""
    x, y = bench.test.x(), bench.test.labels
    spec = AttackSpec("audit", ThreatModel("linf", (0.1,)), len(x))
    try:
        inside = inside_for(defense, spec, bench.test)
    except MissingGradientError:
        inside = 0.0
    with seeded(0):
        correct = defense.predict(x) == y
    return Case(
        defense,
        bench.test.info.name,
        0,
        x,
        y,
        correct,
        bench.train.images,
        inside=inside,
        **options,
    )


# --- around the bare model -----------------------------------------------------------------------


class Around(Defense):
    """A defense around the bare model: ``before`` changes the image, ``after`` the logits."""

    def __init__(self, bare: Defense) -> None:
        super().__init__(bare.info)
        self.bare = bare
        self.eval()

    def before(self, x: Tensor) -> Tensor:
        return x

    def after(self, logits: Tensor) -> Tensor:
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.bare(self.before(x)))


class ScaledLogits(Around):
    """The cross-entropy is 0 in float32, and so is its gradient."""

    def after(self, logits: Tensor) -> Tensor:
        return logits * 1000


class Probabilities(Around):
    """Sharp probabilities, which are 0 and 1 in float32."""

    def after(self, logits: Tensor) -> Tensor:
        return (logits * 30).softmax(1)


class OneHot(Around):
    """The label alone."""

    def after(self, logits: Tensor) -> Tensor:
        return F.one_hot(logits.argmax(1), logits.shape[1]).float()


class RoundedLogits(Around):
    """Logits rounded to whole numbers: steps without a slope."""

    def after(self, logits: Tensor) -> Tensor:
        return (logits * 2).round() / 2


class BitDepth(Around):
    """Grey levels rounded to four bits: a gradient of zero."""

    def before(self, x: Tensor) -> Tensor:
        return (x * LEVELS).round() / LEVELS


class BlockCompression(Around):
    """Rounded coefficients of a cosine transform in blocks of four, as JPEG rounds them."""

    def before(self, x: Tensor) -> Tensor:
        n = torch.arange(4.0)
        basis = torch.cos(torch.pi * (n + 0.5) * n[:, None] / 4) * (0.5**0.5)
        basis[0] *= 0.5**0.5
        blocks = x.unfold(2, 4, 4).unfold(3, 4, 4)
        rounded = ((basis @ blocks @ basis.T) * 8).round() / 8
        back = basis.T @ rounded @ basis
        return back.permute(0, 1, 2, 4, 3, 5).reshape(x.shape)


class Thermometer(Around):
    """Each pixel as the share of thresholds that it exceeds: no gradient."""

    def before(self, x: Tensor) -> Tensor:
        thresholds = (torch.arange(LEVELS) + 0.5) / LEVELS
        return (x[..., None] > thresholds).float().mean(-1)


class Detached(Around):
    """The image is cut off."""

    def before(self, x: Tensor) -> Tensor:
        return x.detach()


class NoGrad(Around):
    """The whole model runs without a graph."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(x)


class Clamped(Around):
    """No gradient where a pixel is 0 or 1, as most of MNIST's are."""

    def before(self, x: Tensor) -> Tensor:
        return x.clamp(0, 1)


class Jitter(Around):
    """Noise that the defense does not declare."""

    def before(self, x: Tensor) -> Tensor:
        return x + 0.25 * torch.randn(x.shape)


class RandomShift(Around):
    """A random crop of the padded image, undeclared."""

    def before(self, x: Tensor) -> Tensor:
        i, j = torch.randint(0, 3, (2,)).tolist()
        padded = F.pad(x, (1, 1, 1, 1))
        return padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]


class RoundedNoise(Around):
    """Undeclared noise, rounded to grey levels."""

    def before(self, x: Tensor) -> Tensor:
        return ((x + 0.1 * torch.randn(x.shape)) * LEVELS).round() / LEVELS


class Misled(torch.autograd.Function):
    """The identity with another gradient."""

    @staticmethod
    def forward(ctx, x, change):
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        return ctx.change(slope), None


class WrongSign(Around):
    """The gradient points the other way."""

    def before(self, x: Tensor) -> Tensor:
        return Misled.apply(x, torch.neg)


class Vanishing(Around):
    """A gradient so small that float32 drops much of it."""

    def before(self, x: Tensor) -> Tensor:
        return Misled.apply(x, lambda slope: slope * 1e-30 * 1e-14)


class Exploding(Around):
    """A gradient that leaves float32's range where it is large."""

    def before(self, x: Tensor) -> Tensor:
        return Misled.apply(x, lambda slope: slope * 1e38 * 1e3)


class NoiseGradient(Around):
    """A gradient of noise."""

    def before(self, x: Tensor) -> Tensor:
        return Misled.apply(x, lambda slope: torch.randn(slope.shape) * slope.abs().mean())


class NotANumber(Around):
    """A root at zero behind the logits: 0 times infinity."""

    def after(self, logits: Tensor) -> Tensor:
        return logits + (logits * 0).sqrt()


class BatchStatistics(Around):
    """Images centred by their own batch's mean, as batch norm in training mode does."""

    def before(self, x: Tensor) -> Tensor:
        return x - 0.5 * (x.mean(0) - x.mean())


class Drifting(Around):
    """A counter that every question moves, and the image with it."""

    def __init__(self, bare: Defense) -> None:
        super().__init__(bare)
        self.register_buffer("asked", torch.zeros((), dtype=torch.int64))

    def before(self, x: Tensor) -> Tensor:
        self.asked += 1
        moves = [(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)]
        return x.roll(moves[(int(self.asked) - 1) % len(moves)], dims=(2, 3))


class Purified(Around):
    """Some steps of descent on the model's own entropy come before its answer."""

    def before(self, x: Tensor) -> Tensor:
        u = x.detach().clone()
        with torch.enable_grad():
            for _ in range(3):
                u.requires_grad_()
                p = self.bare(u).softmax(1)
                (slope,) = torch.autograd.grad(-(p * p.clamp_min(1e-30).log()).sum(), u)
                u = (u - 0.01 * slope.sign()).clamp(0, 1).detach()
        return u


class Watchful(Around):
    """Other logits when it is differentiated: those of the image's negative."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.bare(x.flip(2))
        return self.bare(x)


class TwoFaced(Around):
    """Forward is another model than the one that decides."""

    def forward(self, x: Tensor) -> Tensor:
        return self.bare(x.flip(2))

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        return self.bare(x).argmax(1)


class Stairs(nn.Module):
    """Steps in place of a slope."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.relu() * 3).round() / 3


class WinnersTakeAll(nn.Module):
    """The largest quarter of all activations; the others are 0 (Xiao et al. 2019,
    https://arxiv.org/abs/1905.10510)."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        least = flat.topk(flat.shape[1] // 4, dim=1).values[:, -1:]
        return (flat * (flat >= least)).relu().view_as(x)


class Activated(Around):
    """The bare model's layers with another activation between them."""

    def __init__(self, bare: Bare, activation: nn.Module) -> None:
        super().__init__(bare)
        swapped = [activation if isinstance(m, nn.ReLU) else m for m in bare.network]
        self.network = nn.Sequential(*swapped)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x * 2 - 1)


class Sealed(Around):
    """One function without modules, with steps inside: nothing to take apart."""

    def __init__(self, bare: Bare) -> None:
        super().__init__(bare)
        parts = [bare.network[i] for i in (0, 2, 5)]
        self.weights = nn.ParameterList([part.weight for part in parts])
        self.biases = nn.ParameterList([part.bias for part in parts])

    def forward(self, x: Tensor) -> Tensor:
        h = x * 2 - 1
        for weight, bias in list(zip(self.weights, self.biases, strict=True))[:2]:
            h = (F.conv2d(h, weight, bias, stride=2, padding=2).relu() * 3).round() / 3
        return F.linear(h.flatten(1), self.weights[2], self.biases[2])


class Memory(Around):
    """The stored label within 0.45 of a stored test image, the bare model's elsewhere."""

    def __init__(self, bare: Defense, test: ImageDataset) -> None:
        super().__init__(bare)
        self.register_buffer("stored", test.x().flatten(1))
        self.register_buffer("labels", test.labels)

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        far = torch.stack([(self.stored - u).abs().amax(1) for u in x.flatten(1)])
        near, which = far.min(1)
        known = F.one_hot(self.labels[which], logits.shape[1]) * 10.0
        return torch.where((near < 0.45)[:, None], known, logits)


# --- waves, doors and memories that a look at the stored images does not show --------------------


def unfolded(bare: Bare) -> Callable[[Tensor], Tensor]:
    """The bare model as one function without modules: nothing to take apart."""
    parts = [bare.network[i] for i in (0, 2, 5)]
    weights, biases = [part.weight for part in parts], [part.bias for part in parts]

    def logits(x: Tensor) -> Tensor:
        h = x * 2 - 1
        for weight, bias in list(zip(weights, biases, strict=True))[:2]:
            h = F.conv2d(h, weight, bias, stride=2, padding=2).relu()
        return F.linear(h.flatten(1), weights[2], biases[2])

    return logits


class Oscillating(Around):
    """Waves of ``period`` on every pixel, smooth and too low to see, whose slopes are up to
    ``steepness`` times the pixel's own: right at a pixel of 0, and right or wrong elsewhere.

    ``sealed`` leaves no module between the waves and the logits.
    """

    def __init__(
        self, bare: Bare, period: float, steepness: float = 4.0, *, sealed: bool = False
    ) -> None:
        super().__init__(bare)
        self.period, self.steepness = period, steepness
        if sealed:
            logits = unfolded(bare)
            self.bare = None  # type: ignore[assignment]
            self.inner = (logits,)
        else:
            self.inner = (bare,)

    def before(self, x: Tensor) -> Tensor:
        turn = math.tau / self.period
        return x + self.steepness / turn * torch.sin(turn * x)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner[0](self.before(x))


class OscillatingLogits(Around):
    """Waves on the logits."""

    def after(self, logits: Tensor) -> Tensor:
        return logits + 0.3 * torch.sin(12 * logits)


class FalseOffImage(Around):
    """The right gradient where every pixel is a grey level, as in a stored image; else reversed."""

    def before(self, x: Tensor) -> Tensor:
        grey = ((x * 255).round() / 255 - x).detach().abs().flatten(1).amax(1) < 1e-6
        sign = torch.where(grey, 1.0, -1.0).view(-1, 1, 1, 1)
        return Misled.apply(x, lambda slope: slope * sign)


class HardVotes(Around):
    """The votes of five copies of the image, each moved by a pixel or not, and no gradient."""

    def copies(self, x: Tensor) -> list[Tensor]:
        padded = F.pad(x, (1, 1, 1, 1))
        h, w = x.shape[2:]
        places = ((0, 1), (2, 1), (1, 0), (1, 2), (1, 1))
        return [padded[:, :, i : i + h, j : j + w] for i, j in places]

    def forward(self, x: Tensor) -> Tensor:
        votes = [self.bare(copy).argmax(1) for copy in self.copies(x)]
        return F.one_hot(torch.stack(votes), self.info.n_classes).sum(0).float()


class Denoised(Around):
    """Pushes pixels to 0 or 1 where the image is as rough as with noise of 0.13: what a search in a
    large ball does is undone, and what one in a small ball does is not."""

    def __init__(self, bare: Defense, images: Tensor) -> None:
        super().__init__(bare)
        noisy = random_start(images, 0.13, "linf", generator(0))
        self.rough = float(self.roughness(noisy).median())

    @staticmethod
    def roughness(x: Tensor) -> Tensor:
        beside = F.avg_pool2d(x, 3, stride=1, padding=1)
        return (x - beside).detach().abs().flatten(1).median(1).values

    def before(self, x: Tensor) -> Tensor:
        share = torch.sigmoid(400 * (self.roughness(x) - self.rough)).view(-1, 1, 1, 1)
        return (1 - share) * x + share * torch.sigmoid(40 * (x - 0.5))


class Remembering(Around):
    """Keeps a list and a dictionary of what it was asked; every tenth question moves the image."""

    def __init__(self, bare: Defense) -> None:
        super().__init__(bare)
        self.asked: list[float] = []
        self.seen: dict[str, int] = {"moves": 0}

    def before(self, x: Tensor) -> Tensor:
        self.asked.append(float(x.detach().sum()))
        if len(self.asked) % 10 == 0:
            self.seen["moves"] += 1
        moves = [(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)]
        return x.roll(moves[self.seen["moves"] % len(moves)], dims=(2, 3))


class SeededNoise(Around):
    """Noise drawn from a seed that is the image itself: the same for the same image, and another
    for one a hair beside it."""

    def before(self, x: Tensor) -> Tensor:
        noise = [
            torch.randn(u.shape, generator=generator(zlib.crc32(u.numpy().tobytes())))
            for u in x.detach().contiguous()
        ]
        return x + 0.25 * torch.stack(noise)


class Known(Around):
    """A masking as who knows it attacks it: ``logits`` in place of its own, its own decision."""

    def __init__(self, masked: Defense, logits: Callable[[Tensor], Tensor]) -> None:
        super().__init__(masked)
        self.known = (logits,)

    def forward(self, x: Tensor) -> Tensor:
        return self.known[0](x)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        return self.bare.predict(x)


def _voting(bench: Bench) -> Defense:
    votes = HardVotes(bench.bare)
    return Known(votes, lambda x: torch.stack([bench.bare(u) for u in votes.copies(x)]).mean(0))


@dataclass(frozen=True)
class Planted:
    """A masking: how it is built and the checks of which one must find it.

    ``breakable`` from the budget ``eps`` on, with a test's small effort and so many ``queries``, to
    what PGD leaves of the ``oracle``: of the bare model, or of the masking as who knows it attacks
    it.
    """

    name: str
    build: Callable[[Bench], Defense]
    reasons: tuple[str, ...]
    breakable: bool = True
    eps: float = 0.0
    queries: int = 60
    oracle: Callable[[Bench], Defense] = lambda bench: bench.bare


def _around(cls: type[Around], *reasons: str) -> Planted:
    return Planted(cls.__name__, lambda bench: cls(bench.bare), reasons)


def _waves(parts: int, *, sealed: bool = False) -> Planted:
    return Planted(
        f"Oscillating{parts}",
        lambda bench: Oscillating(bench.bare, 0.1 / parts, sealed=sealed),
        ("gradient-scale",),
    )


PLANTED: tuple[Planted, ...] = (
    _around(ScaledLogits, "saturated-loss"),
    _around(Probabilities, "probability-outputs"),
    _around(OneHot, "probability-outputs", "missing-gradient"),
    _around(RoundedLogits, "quantised-outputs", "zero-gradient"),
    _around(BitDepth, "zero-gradient"),
    _around(BlockCompression, "zero-gradient"),
    _around(Thermometer, "missing-gradient"),
    _around(Detached, "missing-gradient"),
    _around(NoGrad, "missing-gradient"),
    _around(Clamped, "edge-gradient"),
    _around(Jitter, "randomness"),
    _around(RandomShift, "randomness"),
    _around(RoundedNoise, "randomness", "zero-gradient"),
    _around(WrongSign, "gradient-sign"),
    _around(Vanishing, "gradient-size", "zero-gradient"),
    _around(Exploding, "nan-gradient", "gradient-size"),
    _around(NoiseGradient, "gradient-directions", "gradient-sign"),
    _around(NotANumber, "nan-gradient"),
    _around(BatchStatistics, "batch-dependence"),
    _around(Drifting, "state-changes"),
    _around(Purified, "inference-search", "missing-gradient"),
    _around(Watchful, "gradient-mode"),
    _around(TwoFaced, "two-answers"),
    Planted("Stairs", lambda b: Activated(b.bare, Stairs()), ("zero-gradient",)),
    # Answers only: of MNIST 500 queries leave 12 points more than the bare model's at 0.1.
    Planted("Sealed", lambda b: Sealed(b.bare), ("zero-gradient",), eps=0.2, queries=500),
    Planted(
        "WinnersTakeAll",
        lambda b: Activated(b.bare, WinnersTakeAll()),
        ("gradient-directions", "gradient-steps", "logit-jumps"),
    ),
    Planted(
        "Memory",
        lambda b: Memory(b.bare, b.test),
        ("zero-gradient", "shifted-images", "noisy-images", "logit-jumps"),
        breakable=False,
    ),
    # Periods as shares of the smaller eps, 0.1: between a difference's step and the attack's.
    _waves(50),
    _waves(16, sealed=True),
    _waves(6, sealed=True),
    _waves(3),
    _around(OscillatingLogits, "gradient-scale"),
    _around(FalseOffImage, "gradient-scale"),
    Planted("HardVotes", lambda b: HardVotes(b.bare), ("missing-gradient",), oracle=_voting),
    Planted(
        "Denoised",
        lambda b: Denoised(b.bare, b.train.x()[:100]),
        (),  # no question at one eps shows it: what the stronger attack takes does
        oracle=lambda b: Known(Denoised(b.bare, b.train.x()[:100]), b.bare),
    ),
    _around(Remembering, "state-changes"),
    Planted(
        "SeededNoise",
        lambda b: SeededNoise(b.bare),
        ("logit-jumps", "gradient-scale"),
        oracle=lambda b: Known(SeededNoise(b.bare), b.bare),
    ),
)


# --- purify what looks noisy -------------------------------------------------------------------


class NoisyPurifier(Around):
    """What looks noisy is brought to black and white; what does not is left as it is.

    An attack in a large ball, or from a random start in it, sees the purified image alone, whose
    gradient is zero. ``threshold`` is the :meth:`noise` from which on it purifies.
    """

    def __init__(self, bare: Defense, threshold: float) -> None:
        super().__init__(bare)
        self.threshold = threshold

    def noise(self, x: Tensor) -> Tensor:
        """How far pixels lie from the mean of their neighbours (N,), on average."""
        mean = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
        return (x - mean).abs().flatten(1).mean(1)

    def before(self, x: Tensor) -> Tensor:
        noisy = self.noise(x.detach()) > self.threshold
        return torch.where(noisy.view(-1, 1, 1, 1), (x > 0.5).to(x), x)


class FarPurifier(NoisyPurifier):
    """Noisy is what lies far, in l2, from all images that it has stored."""

    def __init__(self, bare: Defense, threshold: float, stored: Tensor) -> None:
        super().__init__(bare, threshold)
        self.register_buffer("stored", stored.flatten(1))

    def noise(self, x: Tensor) -> Tensor:
        return torch.cdist(x.flatten(1), self.stored).amin(1)


class GreyPurifier(NoisyPurifier):
    """Noisy is what has many pixels off black and white."""

    def noise(self, x: Tensor) -> Tensor:
        return ((x - x.round()).abs() > 0.15).to(x).flatten(1).mean(1)


class SmoothPurifier(NoisyPurifier):
    """It fades from the image to the purified one, and pretends that purifying changes nothing."""

    def before(self, x: Tensor) -> Tensor:
        share = torch.sigmoid(400 * (self.noise(x) - self.threshold)).view(-1, 1, 1, 1)
        pure = x + ((x > 0.5).to(x) - x).detach()
        return (1 - share) * x + share * pure


def between(purifier: NoisyPurifier, x: Tensor, eps: float) -> NoisyPurifier:
    """Set the threshold so that half of ``x`` with random noise within ``eps`` are purified."""
    noise = (torch.rand(x.shape, generator=generator(0)) * 2 - 1) * eps
    purifier.threshold = float(purifier.noise((x + noise).clamp(0, 1)).median())
    return purifier


PURIFIERS: dict[str, Callable[[Bench], NoisyPurifier]] = {
    "NoisyPurifier": lambda b: NoisyPurifier(b.bare, 0.0),
    "FarPurifier": lambda b: FarPurifier(b.bare, 0.0, b.train.x()[:400]),
    "GreyPurifier": lambda b: GreyPurifier(b.bare, 0.0),
    "SmoothPurifier": lambda b: SmoothPurifier(b.bare, 0.0),
}
