"""Checks of the stored images: does what is measured there hold beside them, too?

A defense that knows its test images, or that answers otherwise where a pixel is no grey level,
shows an attacker one function and a user another.

Where each threshold comes from, and what honest models show, is on the check's page under
docs/checks.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmark.attacks.norms import random_start
from benchmark.audit.case import Case, Finding, alarm_if, undecided
from benchmark.audit.measurements import (
    TWICE,
    apart,
    asked,
    is_random,
    logits,
    same,
    seed_for,
)
from benchmark.audit.registration import check
from benchmark.seeding import generator
from benchmark.stats import mcnemar

SHIFTED = 0.6
NOISE = 2 / 255
NOISY = 0.8
HAIR = 1e-4
JUMP = 0.05
JUMPING = 0.1
OVERLAP = 0.05
LEVEL = 0.01
"""Of McNemar's test."""

AT_ONCE = 4096
"""Training images, or pairs, compared at a time: bounds the memory."""


def _neighbours(
    name: str, case: Case, moved: Callable[[Tensor], list[Tensor]], trusted: float, how: str
) -> Finding:
    """Tell whether of the images that were right enough stay so when they are moved.

    A random defense may be wrong of the very same image when it is asked again: there the share is
    of those that were right then, and a drop has to be more than chance.
    """
    x, y = asked(case)
    right = torch.stack([case.defense.predict(image) == y for image in moved(x)])
    again = torch.ones_like(right)
    if is_random(case):
        again = torch.stack([case.defense.predict(x) == y for _ in right])
    share = float(right.double().sum() / again.double().sum().clamp_min(1))
    chance = float(mcnemar(int((right & ~again).sum()), int((again & ~right).sum())))
    evidence = f"{how} {share:.0%} of {len(x)} images stay right; trusted from {trusted:.0%}"
    if not again.all():
        evidence += f", or if it may be chance; unmoved {float(again.double().mean()):.0%} do"
    dropped = share < trusted and (bool(again.all()) or chance < LEVEL)
    return alarm_if(dropped, name, share, trusted, evidence, "holds only at the stored images")


@check("shifted-images", level="basic", needs=["correct"], role="invalid")
def shifted_images(case: Case) -> Finding:
    """Tell whether images shifted by one pixel are still recognised."""
    how = "shifted by one pixel in four directions"
    return _neighbours("shifted-images", case, _shifts, SHIFTED, how)


def _shifts(x: Tensor) -> list[Tensor]:
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    h, w = x.shape[2:]
    return [padded[:, :, i : i + h, j : j + w] for i, j in ((0, 1), (2, 1), (1, 0), (1, 2))]


@check("noisy-images", level="basic", needs=["correct"], role="invalid")
def noisy_images(case: Case) -> Finding:
    """Tell whether images with noise of two grey levels are still recognised."""
    name = "noisy-images"
    rng = generator(seed_for(case, name), case.device)

    def noisy(x: Tensor) -> list[Tensor]:
        drawn = [random_start(x, NOISE, "linf", rng) for _ in range(2)]
        return [drawn[0], (drawn[1] * 255).round() / 255]

    how = "with noise of up to two grey levels, rounded and not,"
    return _neighbours(name, case, noisy, NOISY, how)


@check("logit-jumps", level="basic", needs=["correct", "scores"])
def logit_jumps(case: Case) -> Finding:
    """Tell how often logits jump a hair's breadth beside the stored image."""
    name = "logit-jumps"
    x, _ = asked(case)
    seed = seed_for(case, name)
    beside = random_start(x, HAIR, "linf", generator(seed, x.device))
    at = logits(case, x, seed)
    if not same(at, logits(case, x, seed)):
        return undecided(name, f"{TWICE}: jumps are noise", JUMPING)
    far = apart(at, logits(case, beside, seed))
    share = float((far > JUMP).double().mean())
    evidence = (
        f"noise of {HAIR:g} changes the logits of {share:.0%} of {len(x)} images by more than"
        f" {JUMP:.0%} of their length (median {float(far.median()):.2g}); trusted up to"
        f" {JUMPING:.0%}"
    )
    reason = "holds only at the stored images"
    return alarm_if(share > JUMPING, name, share, JUMPING, evidence, reason)


@check("train-test-overlap", level="basic", role="invalid", doubts_gradient=False)
def train_test_overlap(case: Case) -> Finding:
    """Tell how many test images are among the training images, up to a grey level."""
    name, known = "train-test-overlap", case.train_images
    if len(known) == 0:
        return undecided(name, "no training images are known", OVERLAP)
    x = _grey_levels(case.x)
    seen = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for part in map(_grey_levels, torch.split(known, AT_ONCE)):
        # A lattice of pixels rules nearly all pairs out.
        near = torch.cdist(_lattice(x), _lattice(part), p=torch.inf) <= 1
        for pairs in torch.split(near.nonzero(), AT_ONCE):
            i, j = pairs.T
            far = (x[i].int() - part[j].int()).abs().flatten(1).amax(1)
            seen[i[far <= 1]] = True
    share = float(seen.double().mean())
    evidence = (
        f"{share:.0%} of {len(x)} test images are among {len(known)} training images, up to one"
        f" grey level; trusted up to {OVERLAP:.0%}"
    )
    reason = f"{share:.0%} of the test images are among the training images"
    return alarm_if(share > OVERLAP, name, share, OVERLAP, evidence, reason)


def _grey_levels(images: Tensor) -> Tensor:
    """Return images as uint8; float ones in [0, 1] are rounded to the nearest level."""
    return images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)


def _lattice(images: Tensor) -> Tensor:
    """Return every third pixel or so, at least eight a side, as float32 (N, D)."""
    step = max(1, min(images.shape[2:]) // 8)
    return images[:, :, ::step, ::step].flatten(1).float()
