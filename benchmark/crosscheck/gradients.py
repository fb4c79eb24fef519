"""How large a library's gradients are beside another's, at the same images.

A loss averaged over a batch of N images has gradients 1/N as large as those of each image's own
loss. That changes no sign, until entries become too small for float32 and underflow to 0, or nearly
cancel and are rounded the other way. Gradients compare where both libraries took one at the same
point, which is the clean image; how a budget attack goes on from there depends on its steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.crosscheck.findings import Gap


@dataclass(frozen=True)
class Gradients:
    """The first gradient taken at each clean image.

    ``largest`` (n,): its largest absolute entry (NaN: none was taken); ``least`` (n,): the
    smallest that is not 0 (infinite: all are); ``signs`` (n, C, H, W) int8: -1, 0 or 1; ``batch``
    (n,) int64: the number of images in the batch that it belonged to.
    """

    largest: Tensor
    least: Tensor
    signs: Tensor
    batch: Tensor

    @classmethod
    def none(cls, x: Tensor) -> "Gradients":
        """Return those of one batch ``x`` (n, C, H, W) of which no gradient was taken yet."""
        n = len(x)
        return cls(
            largest=torch.full((n,), torch.nan, device=x.device),
            least=torch.full((n,), torch.inf, device=x.device),
            signs=torch.zeros_like(x, dtype=torch.int8),
            batch=torch.full((n,), n, dtype=torch.int64, device=x.device),
        )

    def note(self, rows: Tensor, gradient: Tensor) -> None:
        """Take the gradients (m, C, H, W) of those of ``rows`` (m,) that have none yet."""
        new = self.largest[rows].isnan()
        rows, gradient = rows[new], gradient.detach()[new]
        size = gradient.flatten(1).abs()
        self.largest[rows] = size.amax(1).to(self.largest)
        self.least[rows] = size.masked_fill(size == 0, torch.inf).amin(1).to(self.least)
        self.signs[rows] = gradient.sign().to(self.signs)

    def put(self, rows: Tensor, part: "Gradients") -> None:
        """Take over those of ``rows`` from ``part``, one batch's."""
        for name, values in vars(part).items():
            getattr(self, name)[rows] = values.to(getattr(self, name))


def add_gap(gap: Gap, own: Gradients, other: Gradients, same: Tensor) -> None:
    """Add the images (n,) of one budget to ``gap``; ``same`` (n,) bool: equal returned images."""
    tiny = torch.finfo(torch.float32).tiny
    both = own.largest.isfinite() & other.largest.isfinite()
    # Below the normal numbers of float32 a ratio is one of roundings.
    normal = both & (own.largest >= tiny) & (other.largest >= tiny)
    ratio = (own.largest.double() / other.largest.double())[normal]
    gap.ratios += ratio.tolist()
    gap.averaged += (ratio * own.batch[normal]).tolist()
    vanished = both & ((own.signs == 0) & (other.signs != 0)).flatten(1).any(1)
    turned = both & (own.signs * other.signs < 0).flatten(1).any(1)
    gap.compared += int(both.sum())
    gap.vanished += int(vanished.sum())
    gap.underflown += int((vanished & ((own.least < tiny) | (own.largest == 0))).sum())
    gap.turned += int(turned.sum())
    gap.vanished_differ += int((vanished & ~same).sum())
    gap.others_differ += int((both & ~vanished & ~same).sum())
