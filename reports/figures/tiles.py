"""Pixels of the pictures of an attack: tiles, the amplified difference, and one figure of all.

A tile is an image as it is shown, uint8 (H, W, 3). The page holds tiles of its own, small enough
for it; the figure is for the files beside it and holds every pixel as it is.
"""

import base64
import io
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmark.results.pictures import Pixelled, Pixels
from reports.figures.drawing import Picture, canvas, plain, render

Tile = npt.NDArray[np.uint8]
HEADS = ("original", "attacked", "difference")
SATURATED = 0.01
"""The share of an l2 attack's differences that may lie beyond the darkest and brightest grey."""


@dataclass(frozen=True)
class Card:
    """One image under one defense: tiles in the order of HEADS, the labels, and its fate.

    ``fooled`` says that the attack fooled it: a clean error did not fall.
    """

    sample_id: int
    tiles: tuple[Tile, Tile, Tile]
    labels: str
    fate: str
    fooled: bool


@dataclass(frozen=True)
class Strip:
    """The cards of one defense, None where an image was not kept, and a sentence on them."""

    defense: str
    cards: Sequence[Card | None]
    summary: str


def cards_of(strips: Iterable[Strip]) -> list[Card]:
    """Return the cards that were kept."""
    return [card for strip in strips for card in strip.cards if card]


def amplification(differences: Iterable[Pixels], norm: str, eps: float) -> float:
    """Return the one factor by which a figure shows its ``differences``, to three digits.

    Under l-inf, eps just reaches black and white. An l2 budget bounds no single pixel: there at
    most SATURATED of the differences of the figure's changed pixels do more than that.
    """
    reach = eps
    if norm != "linf":
        sizes = np.abs(np.concatenate([np.ravel(each) for each in differences]))
        changed = sizes[sizes > 0]
        reach = float(np.quantile(changed, 1 - SATURATED)) if len(changed) else 0.0
    if reach <= 0:
        return 1.0
    factor = 0.5 / reach
    # Rounded down: what is printed is what was done, and what should be in range stays there.
    step = 10.0 ** (np.floor(np.log10(factor)) - 2)
    return float(f"{np.floor(factor / step + 1e-9) * step:.3g}")


def tiles(images: Pixelled, factor: float) -> tuple[Tile, Tile, Tile]:
    """Return the tiles of a row: original, attacked, and the difference around mid-grey."""
    shown = (images.original, images.adversarial, 0.5 + factor * images.difference)
    first, second, third = map(_tile, shown)
    return first, second, third


def _tile(pixels: Pixels) -> Tile:
    """Return ``pixels`` (C, H, W), grey or RGB, cut to [0, 1], as a tile."""
    rgb = np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)
    return np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


# --- tiles in the page ---------------------------------------------------------------------------

# The most bytes of pixels on a page, at which tiles are coded so: the quality of an image and that
# of a difference (None: lossless). Chosen so that even differences like white noise, which are
# the hardest to code, stay below 2 MB of page: they take 0.6, 0.15 and 0.105 of their bytes.
_CODINGS: tuple[tuple[float, tuple[int, int] | None], ...] = (
    (2.4e6, None),
    (9.6e6, (85, 50)),
    (np.inf, (60, 20)),
)


@dataclass(frozen=True)
class Coding:
    """How a page's tiles are coded: WebP of these qualities, or without loss."""

    qualities: tuple[int, int] | None

    @classmethod
    def of(cls, cards: Iterable[Card]) -> "Coding":
        """Return the coding for a page that shows ``cards``."""
        size = sum(tile.nbytes for card in cards for tile in card.tiles)
        return cls(next(qualities for most, qualities in _CODINGS if size <= most))

    def uris(self, card: Card) -> list[str]:
        """Return the card's tiles as addresses that hold their data."""
        return [
            self._uri(tile, name == HEADS[-1]) for name, tile in zip(HEADS, card.tiles, strict=True)
        ]

    def _uri(self, tile: Tile, difference: bool) -> str:
        how: dict[str, Any] = {"lossless": True, "method": 2}
        if self.qualities:
            how = {"quality": self.qualities[difference]}
        file = io.BytesIO()
        Image.fromarray(tile).save(file, "WEBP", **how)
        return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


# --- one figure ----------------------------------------------------------------------------------

_DPI = 200  # of the PNG that drawing.render writes
_TILE = 120  # dots that a tile should have, more or less
_LEFT, _TOP, _TEXT, _GAP = 1.3, 0.72, 0.4, 0.16  # inches
_SOFT = "#5b6670"


def mosaic(title: str, note: str, strips: Sequence[Strip], alt: str) -> Picture:
    """Draw a row of cards per strip, each pixel a square, below ``title`` and ``note``."""
    columns = zip(*(strip.cards for strip in strips), strict=True)
    ids = [next(card.sample_id for card in column if card) for column in columns]
    height, width = cards_of(strips)[0].tiles[0].shape[:2]
    # A whole number of dots a pixel, or some pixels of the PNG would be wider than others.
    pixel = max(1, round(_TILE / max(height, width))) / _DPI
    between = max(1, width // 40)
    high, wide, tile = height * pixel, (3 * width + 2 * between) * pixel, (width + between) * pixel
    step = wide + _GAP
    size = (max(_LEFT + step * len(ids), 4.4), _TOP + (high + _TEXT) * len(strips))
    # Else an SVG holds one image of them all, resampled to its size in points.
    with canvas(size) as figure, matplotlib.rc_context({"image.composite_image": False}):
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))  # one unit is an inch, downwards
        axes.set(xlim=(0, size[0]), ylim=(size[1], 0), autoscale_on=False)
        axes.set_axis_off()
        axes.text(0.1, 0.2, plain(title, 60), fontsize=10)
        axes.text(0.1, 0.38, note, fontsize=7.5, color=_SOFT)
        lefts = [_LEFT + column * step for column in range(len(ids))]
        for x, sample_id in zip(lefts, ids, strict=True):
            axes.text(x, _TOP - 0.17, f"image {sample_id}", fontsize=6.5)
            for k, head in enumerate(HEADS):
                axes.text(x + k * tile, _TOP - 0.05, head, fontsize=5.5, color=_SOFT)
        for row, strip in enumerate(strips):
            y = _TOP + row * (high + _TEXT)
            name = "\n".join(textwrap.wrap(plain(strip.defense, 48), 16)) or "?"
            axes.text(0.1, y + high / 2, name, fontsize=8, va="center", fontweight="bold")
            for x, card in zip(lefts, strip.cards, strict=True):
                words = f"{card.labels}\n{card.fate}" if card else "not kept"
                axes.text(x, y + high + 0.04, words, fontsize=6.5, va="top", linespacing=1.15)
                if card:
                    extent = (x, x + wide, y + high, y)
                    joined = _joined(card.tiles, between)
                    axes.imshow(joined, extent=extent, aspect="auto", interpolation="none")
        return Picture(*render(figure), alt)


def _joined(shown: Sequence[Tile], between: int) -> Tile:
    """Return the tiles side by side, ``between`` white pixels apart."""
    gap = np.full((shown[0].shape[0], between, 3), 255, np.uint8)
    parts = [part for tile in shown for part in (tile, gap)]
    return np.concatenate(parts[:-1], axis=1)
