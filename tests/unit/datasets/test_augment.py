"""Random crop and flip against a plain loop over the images."""

import pytest
import torch
from torch import Tensor

from benchmark.datasets.augment import random_crop_flip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_hand(x: Tensor, top: int, left: int, flip: bool, padding: int) -> Tensor:
    """Crop one image (C, H, W) of its zero-padded self, pixel by pixel, then mirror it."""
    channels, height, width = x.shape
    out = torch.zeros_like(x)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                row = top + i - padding
                column = left + (width - 1 - j if flip else j) - padding
                if 0 <= row < height and 0 <= column < width:
                    out[c, i, j] = x[c, row, column]
    return out


@pytest.mark.parametrize("shape", [(6, 3, 5, 7), (1, 1, 4, 4)])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_equals_a_loop_over_the_images(shape: tuple[int, ...], padding: int) -> None:
    x = torch.rand(shape, generator=seeded(1))
    result = random_crop_flip(x, padding=padding, generator=seeded(2))
    draws = seeded(2)
    offsets = torch.randint(2 * padding + 1, (2, shape[0]), generator=draws)
    flips = torch.randint(2, (shape[0], 1), generator=draws)
    expected = [
        by_hand(x[i], int(offsets[0, i]), int(offsets[1, i]), bool(flips[i]), padding)
        for i in range(shape[0])
    ]
    assert torch.equal(result, torch.stack(expected))
    assert result.is_contiguous()


def test_every_offset_and_both_orientations_are_as_likely() -> None:
    padding, n = 1, 18_000
    x = torch.zeros(n, 1, 3, 3)
    x[:, :, 1, 1] = 1  # where the centre lands tells the offset
    y = random_crop_flip(x, padding=padding, generator=seeded())
    assert torch.equal(y.sum((1, 2, 3)), torch.ones(n))
    share = y.mean((0, 1))
    assert torch.allclose(share, torch.full((3, 3), 1 / 9), atol=0.01)
    ramp = torch.arange(3.0).expand(n, 1, 1, 3)
    mirrored = random_crop_flip(ramp, padding=0, generator=seeded())[:, 0, 0, 0] == 2
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_offset_and_flip_are_independent_of_each_other() -> None:
    n = 20_000
    x = torch.zeros(n, 1, 1, 5)
    x[..., 2], x[..., 3] = 1, 0.5  # the right neighbour of the centre tells the orientation
    y = random_crop_flip(x, padding=1, generator=seeded())
    y = y[y.amax((1, 2, 3)) == 1][:, 0, 0]  # rows that the vertical offset left in view
    centre, flipped = y.argmax(1), y.gather(1, y.argmax(1, keepdim=True) - 1)[:, 0] == 0.5
    assert flipped[centre == 1].float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert flipped[centre == 3].float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_the_generator_alone_decides() -> None:
    x = torch.rand(32, 3, 8, 8, generator=seeded())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = random_crop_flip(x, padding=4, generator=seeded(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, random_crop_flip(x, padding=4, generator=seeded(3)))
    assert not torch.equal(first, random_crop_flip(x, padding=4, generator=seeded(4)))


def test_keeps_dtype_and_range_and_leaves_the_input_alone() -> None:
    x = torch.rand(8, 3, 8, 8, generator=seeded())
    copy = x.clone()
    y = random_crop_flip(x, padding=4, generator=seeded())
    assert y.dtype == x.dtype
    assert y.min() >= 0
    assert y.max() <= 1
    assert torch.equal(x, copy)
    y.zero_()
    assert torch.equal(x, copy)


def test_an_empty_batch_stays_empty() -> None:
    assert random_crop_flip(torch.rand(0, 3, 8, 8), padding=4, generator=seeded()).shape[0] == 0


def test_negative_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="padding"):
        random_crop_flip(torch.rand(1, 1, 4, 4), padding=-1, generator=seeded())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cpu_generator_gives_the_same_on_cuda() -> None:
    x = torch.rand(16, 3, 32, 32, generator=seeded())
    there = random_crop_flip(x.cuda(), padding=4, generator=seeded())
    assert torch.equal(there.cpu(), random_crop_flip(x, padding=4, generator=seeded()))
    own = torch.Generator("cuda").manual_seed(0)
    assert random_crop_flip(x.cuda(), padding=4, generator=own).is_cuda
