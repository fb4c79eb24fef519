"""Training-time augmentation of a whole batch at once, on its device."""

import torch
from torch import Tensor
from torch.nn.functional import pad


def random_crop_flip(x: Tensor, *, padding: int, generator: torch.Generator) -> Tensor:
    """Crop each image at random from its zero-padded self, and mirror half of them.

    ``x`` is (N, C, H, W), float32, in [0, 1]; so is the new tensor returned. Every image gets its
    own offset, uniform among the (2 * padding + 1)**2, and a horizontal flip with probability
    1/2. ``generator`` may live on another device than ``x``: one on the CPU gives the same
    augmentation everywhere.
    """
    if padding < 0:
        raise ValueError(f"padding must be at least 0, got {padding}")
    n, channels, height, width = x.shape
    place = generator.device
    offsets = torch.randint(2 * padding + 1, (2, n), generator=generator, device=place).to(x.device)
    flip = torch.randint(2, (n, 1), generator=generator, device=place).bool().to(x.device)
    # Where each pixel of the result is in the padded image; a mirrored one counts backwards.
    rows = offsets[0, :, None] + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device).expand(n, width)
    columns = offsets[1, :, None] + torch.where(flip, columns.flip(1), columns)
    padded = pad(x, (padding,) * 4)
    index = (rows[:, :, None] * padded.shape[-1] + columns[:, None, :]).view(n, 1, height * width)
    return padded.flatten(2).gather(2, index.expand(-1, channels, -1)).view_as(x)
