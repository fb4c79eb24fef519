"""In which precision a search follows the gradient: bfloat16 where it is fast and accurate enough.

bfloat16 has float32's range and 8 bits of its 24, so in most networks the gradient points the same
way. Where logits are large beside their differences it rounds the differences away, so the logits
are compared as well. Whether an image fools the model is always decided in float32
(:mod:`benchmark.attacks.eps_descent`). docs/search.md and docs/constants.md have the measurements.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.attacks.losses import Loss
from benchmark.attacks.view import AttackView

ALIKE = 0.9
"""Cosine of the two gradients that the median image must reach (docs/constants.md)."""

ROUNDED = 0.02
"""By how much the differences between the median image's logits may be rounded, relative to the
largest (docs/search.md)."""

PROBED = 16
"""Images on which a model is compared in both precisions."""


def fast_bfloat16(device: torch.device) -> bool:
    """Tell whether the device computes in bfloat16 by instructions of its own."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    # torch before 2.9 does not tell: float32 then.
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def search_dtype(view: AttackView, x: Tensor, y: Tensor, loss: Loss) -> torch.dtype:
    """Return bfloat16 if the device is fast in it and the model answers as it does in float32.

    The loss's gradient and the differences between logits must agree on the first few images ``x``
    (N, C, H, W), in [0, 1], with labels ``y`` (N,). A model that raises, or whose gradient is NaN
    or zero, gets float32.
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
    except Exception:  # the search itself will meet it, unless bfloat16 caused it
        return torch.float32
    alike = F.cosine_similarity(wanted.flatten(1), found.flatten(1)).median()
    logits, rough = _centred(logits), _centred(rough)
    rounded = ((rough - logits).abs().amax(1) / logits.abs().amax(1)).median()
    return torch.bfloat16 if alike >= ALIKE and rounded <= ROUNDED else torch.float32


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)
