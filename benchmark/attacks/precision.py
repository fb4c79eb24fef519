"""In which precision a search follows the gradient: bfloat16 where it is fast and points alike.

A search only has to find images; whether one fools the model is asked in float32, and so is the
last iterate before an image counts as standing (:mod:`benchmark.attacks.eps_descent`). bfloat16 has
float32's range and 8 bits of its 24, so in most networks the gradient points the same way. Not
where logits are large beside their differences: a constant added to all of them changes nothing in
float32, and in bfloat16 it rounds the differences away. So the logits are compared as well.

Measured on two cores of an AMD EPYC with AVX-512 BF16 (batches of 256, channels-last, forward and
backward of one image): an MNIST CNN takes 86 us against 191 us in float32, a CIFAR10 CNN 148
against 220. Without such instructions bfloat16 is emulated, and slower. On five MNIST models (300
images each, 8 eps, 40 steps) the search left 0.0 to 0.3 points more standing than in float32, mean
over the eps, and 0.1 to 2.3 points fewer than PGD from scratch in float32, at no eps more.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.attacks.losses import Loss
from benchmark.attacks.view import AttackView

ALIKE = 0.9
"""Cosine of the two gradients that the median image must reach; honest CNNs lie above 0.99."""

ROUNDED = 0.02
"""By how much the differences between the median image's logits may be rounded, relative to the
largest: honest CNNs lie at 0.002, and with 300 added to logits that span 23, at 0.056."""

PROBED = 16
"""So many images tell whether a model bears bfloat16."""


def fast_bfloat16(device: torch.device) -> bool:
    """Tell whether the device computes in bfloat16 by instructions of its own."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    # torch before 2.9 does not tell, and then float32 it is.
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def search_dtype(view: AttackView, x: Tensor, y: Tensor, loss: Loss) -> torch.dtype:
    """Return bfloat16 if the device is fast in it and the model answers alike at ``x``.

    Alike are the loss's gradient and the differences between logits. ``x`` (N, C, H, W) are images
    in [0, 1] and ``y`` (N,) their labels, of which the first few are asked. A model that raises, or
    whose gradient is NaN or zero, gets float32.
    """
    if len(x) == 0 or not fast_bfloat16(x.device):
        return torch.float32
    x, y = x[:PROBED], y[:PROBED]
    plain = view.batch(len(x))
    coarse = view.batch(len(x))
    coarse.dtype = torch.bfloat16
    try:
        _, logits, wanted = plain.gradient(x, y, loss)
        _, rough, found = coarse.gradient(x, y, loss)
    except Exception:  # whatever it is: the search itself will meet it, or it was bfloat16's
        return torch.float32
    alike = F.cosine_similarity(wanted.flatten(1), found.flatten(1)).median()
    logits, rough = _centred(logits), _centred(rough)
    rounded = ((rough - logits).abs().amax(1) / logits.abs().amax(1)).median()
    return torch.bfloat16 if alike >= ALIKE and rounded <= ROUNDED else torch.float32


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)
