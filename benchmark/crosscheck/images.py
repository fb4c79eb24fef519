"""The images on which libraries disagree most: which they are, and as PNG."""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

SHOWN = 6
EDGE = 112
"""Small images are enlarged, pixel by pixel, to at least this many pixels."""


@dataclass
class Offender:
    """One image under one budget, with every library's answer; tensors (C, H, W) in [0, 1]."""

    sample_id: int
    label: int
    eps: float
    score: float
    original: Tensor
    answers: dict[str, tuple[Tensor, int, bool, float]] = field(default_factory=dict)
    """By library: the image, its prediction, success and distance."""


def disagreement(success: Mapping[str, bool], distance: Mapping[str, float]) -> float:
    """Return how much libraries disagree on an image; 0 where they agree.

    The number of pairs of libraries of which one succeeds and one does not, plus, among those
    that succeed, one half of the spread of their distances, (max - min) / max.
    """
    solved = [name for name, fooled in success.items() if fooled]
    pairs = len(solved) * (len(success) - len(solved))
    far = [distance[name] for name in solved if math.isfinite(distance[name])]
    spread = (max(far) - min(far)) / max(far) if far and max(far) > 0 else 0.0
    return pairs + (0.5 * spread if spread > 0.05 else 0.0)


def worst(offenders: list[Offender]) -> list[Offender]:
    """Return the worst ones, each image once, at the smallest budget that shows it."""
    ranked = sorted(offenders, key=lambda o: (-o.score, o.eps, o.sample_id))
    distinct: dict[int, Offender] = {}
    for offender in ranked:
        distinct.setdefault(offender.sample_id, offender)
    return list(distinct.values())[:SHOWN]


def draw(offenders: list[Offender]) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Return what crosscheck.json says of the offenders, and their PNG files by name."""
    records, files = [], {}
    for rank, offender in enumerate(offenders, 1):
        stem = f"offenders/{rank}-{offender.sample_id}"
        answers = []
        largest = max(
            float((image - offender.original).abs().max())
            for image, *_ in offender.answers.values()
        )
        gain = 0.5 / largest if largest > 0 else 1.0
        files[f"{stem}-original.png"] = png(offender.original)
        for library, (image, pred, success, distance) in offender.answers.items():
            slug = "".join(c if c.isalnum() or c in "-_" else "_" for c in library)
            files[f"{stem}-{slug}.png"] = png(image)
            difference = 0.5 + gain * (image - offender.original)
            files[f"{stem}-{slug}-difference.png"] = png(difference)
            answers.append(
                {
                    "library": library,
                    "pred": pred,
                    "success": success,
                    "distance": distance,
                    "image": f"{stem}-{slug}.png",
                    "difference": f"{stem}-{slug}-difference.png",
                }
            )
        records.append(
            {
                "sample_id": offender.sample_id,
                "label": offender.label,
                "eps": offender.eps,
                "gain": gain,
                "original": f"{stem}-original.png",
                "libraries": answers,
            }
        )
    return records, files


def png(image: Tensor) -> bytes:
    """Return an image (C, H, W) in [0, 1] with one or three channels as PNG."""
    values = (image.detach().cpu().clamp(0, 1) * 255).round().to("cpu").numpy().astype(np.uint8)
    grey = values.shape[0] != 3
    picture = Image.fromarray(values[0] if grey else np.moveaxis(values, 0, -1))
    factor = max(1, math.ceil(EDGE / max(picture.size)))
    picture = picture.resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )
    sink = io.BytesIO()
    picture.save(sink, format="PNG", optimize=True)
    return sink.getvalue()
