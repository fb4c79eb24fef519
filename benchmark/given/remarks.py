"""What an accuracy without any attack says of how a model was handed over."""

from torch import Tensor

from benchmark.stats import wilson_interval

SHIFTED = 0.5
"""The share of images whose answer is one class beside the label that points at labels from 1."""


def clean_remark(predictions: Tensor, labels: Tensor, n_classes: int) -> str:
    """Return a line where a model does no better than chance on clean images; "" elsewhere.

    ``predictions`` and ``labels`` are (n,) int64. Chance is what the most frequent label gives.
    """
    n = len(labels)
    right = int((predictions == labels).sum())
    chance = max(1 / n_classes, float(labels.bincount().max()) / n if n else 0.0)
    low, _ = wilson_interval(right, n)
    if low > chance:
        return ""
    said = (
        f"accuracy without an attack is {right / n:.3f} on {n} images, no better than chance"
        f" ({chance:.3f}), so robust accuracy means nothing here."
    )
    return f"{said} Likely causes: {'; '.join(_causes(predictions, labels, n_classes))}"


def _causes(predictions: Tensor, labels: Tensor, n_classes: int) -> list[str]:
    # Of two classes a shift is no more than the wrong one.
    for shift in (1, -1) if n_classes > 2 else ():
        moved = (predictions == labels + shift).double().mean()
        if moved >= SHIFTED:
            number = "1 more" if shift == 1 else "1 less"
            return [f"classes are numbered otherwise: {moved:.0%} of the answers are {number}"]
    causes = [
        "normalised twice or not at all (mean and std, given here or inside the model)",
        "images in another range than the model was trained on (0 to 255, or -1 to 1)",
        "colour channels in another order (BGR)",
        "classes in another order",
    ]
    if len(set(predictions.tolist())) == 1 and n_classes > 1:
        answer = int(predictions[0])
        causes.insert(0, f"weights not loaded (class {answer} is the answer to every image)")
    return causes
