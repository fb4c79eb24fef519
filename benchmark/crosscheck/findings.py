"""From what was measured on an attack to sentences that say what it does and what that means.

A finding rests on the :class:`Evidence` of the run itself, never on a library's name or version.
Nothing here needs torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

VISIBLE = 1 / 510
"""Half a grey level: a smaller change of a pixel does not count."""

EDGE_RATIO = 0.1
"""Pixels at 0 or 1 that move less than this share as often as the others count as stuck."""

FARTHER = 1.02

FAINT = 0.75
"""Gradients of less than this share of another library's are of a smaller loss
(docs/constants.md)."""

STEADY = 0.01
"""How far the quartiles of ratios may lie from their median, as a share of it, for the ratios to
count as one factor."""


@dataclass
class Gap:
    """One library's gradients beside another's, over the attempts where both took one at the
    clean image.

    ``ratios``: its largest entry over the other's, where both are normal numbers of float32;
    ``averaged``: these times the number of images in the batch; ``compared``: the number of
    attempts; ``vanished``: those in which an entry is exactly 0 where the other's is not;
    ``underflown``: those of the vanished in which another entry is below the normal numbers, or
    all are 0; ``turned``: those in which an entry has the other sign; then in how many of the
    vanished and in how many of the other attempts the returned images differ in any bit.
    """

    ratios: list[float] = field(default_factory=list)
    averaged: list[float] = field(default_factory=list)
    compared: int = 0
    vanished: int = 0
    underflown: int = 0
    turned: int = 0
    vanished_differ: int = 0
    others_differ: int = 0


@dataclass
class Evidence:
    """What was measured on one library's attack, summed over the budgets.

    An attempt is one image under one budget (a minimal attack has no budgets: one image). Lists
    hold one value per attempt counted beside them.
    """

    minimal: bool
    norm: str = "linf"
    attempts: int = 0
    asked: int | None = None
    """Gradients per attempt that the settings ask for."""
    asked_last: bool = False
    """The settings ask for the last iterate."""
    lost: int = 0
    """A query within box and budget fooled the model; the returned image does not."""
    lost_at_last: int = 0
    """Of those, the returned image was the last query, or one step beyond it."""
    farther: list[float] = field(default_factory=list)
    """Returned distance over that of the nearest fooling query, where it is larger."""
    clean: int = 0
    blank: int = 0
    box: tuple[int, float] = (0, 0.0)
    ball: tuple[int, float] = (0, 0.0)
    broken: int = 0
    started: list[float] = field(default_factory=list)
    """How far from the image the first gradient was taken, where that is visibly elsewhere."""
    short: list[float] = field(default_factory=list)
    """Gradients used, where fewer than asked."""
    more: list[float] = field(default_factory=list)
    """Gradients used, where more than asked."""
    edge: tuple[int, int] = (0, 0)
    """Pixels at exactly 0 or 1: how many ever moved visibly, of how many."""
    interior: tuple[int, int] = (0, 0)
    gave_up: list[float] = field(default_factory=list)
    """The best distance of the other libraries, where this one failed and another did not."""
    beaten: list[float] = field(default_factory=list)
    """Distance over the least of all libraries, on images that this one solved."""
    gaps: dict[str, Gap] = field(default_factory=dict)
    """Its gradients beside those of each other library."""
    missed: int = 0
    """Queries that could not be attributed to an image."""
    notes: str = ""

    def edge_share(self) -> float:
        """Share of the pixels at the box's edge that ever moved; NaN if there are none."""
        return self.edge[0] / self.edge[1] if self.edge[1] else math.nan

    def interior_share(self) -> float:
        """The same share of the other pixels."""
        return self.interior[0] / self.interior[1] if self.interior[1] else math.nan

    def edge_is_stuck(self) -> bool:
        """Whether pixels at the edge stay where others move."""
        inside = self.interior_share()
        return inside > 0.01 and self.edge_share() < EDGE_RATIO * inside


def findings(library: str, evidence: Evidence, others: dict[str, Evidence]) -> list[str]:
    """Return the sentences on one library, the most consequential first."""
    e = evidence
    found = [
        _broken(e),
        _outside(e),
        _edge(e, {name: other for name, other in others.items() if name != library}),
        _lost(e),
        _gave_up(e),
        _returned_nothing(e),
        _farther(e),
        _start(e),
        _scale(e, others),
        _cost(e),
    ]
    return [sentence for group in found for sentence in group]


def _of(e: Evidence, count: int) -> str:
    what = "images" if e.minimal else "attempts (an image at an eps)"
    return f"{count} of {e.attempts} {what}"


def _images(count: int) -> str:
    return "one image" if count == 1 else f"{count} images"


def _pct(share: float) -> str:
    if 0 < share < 0.001:
        return "under 0.1 %"
    return f"{100 * share:.1f} %"


def _mid(values: Sequence[float]) -> str:
    return f"{median(values):.3g}"


def _count(values: Sequence[float]) -> str:
    return f"{median(values):,.0f}"


def _lost(e: Evidence) -> list[str]:
    if not e.lost:
        return []
    if 2 * e.lost_at_last >= e.lost:
        head = "returns its last iterate although an earlier one was adversarial"
    else:
        head = "does not return the best image that it tried"
    asked = (
        " The cross-check asks for the last iterate here, so that images can be compared bit by"
        " bit; left to itself the in-house attack returns the best one."
        if e.asked_last
        else ""
    )
    return [
        f"{head}: in {_of(e, e.lost)} an image that it had queried fooled the model within the"
        f" budget, and the returned one does not. Robust accuracy comes out too high by these:"
        f" score every iterate, not only the returned one.{asked}"
    ]


def _edge(e: Evidence, others: dict[str, Evidence]) -> list[str]:
    if not e.edge_is_stuck():
        return []
    total = e.edge[1] + e.interior[1]
    free = {name: other.edge_share() for name, other in others.items() if not other.edge_is_stuck()}
    free = {name: share for name, share in free.items() if not math.isnan(share)}
    beside = ""
    if free:
        name = max(free, key=lambda key: free[key])
        beside = f"; {name} moves {_pct(free[name])} of them"
    return [
        f"does not move pixels at the box's edge: of the pixels that are exactly 0 or 1 it ever"
        f" moved {_pct(e.edge_share())} by more than half a grey level, of the others"
        f" {_pct(e.interior_share())}{beside}. {_pct(e.edge[1] / total)} of all pixels are at the"
        " edge: that part of the space it leaves unsearched, and where it fails or needs a long"
        " way, this says little about the defense."
    ]


def _returned_nothing(e: Evidence) -> list[str]:
    found = []
    if e.clean:
        found.append(
            f"returned the clean image for {_of(e, e.clean)}. These are searches that came to"
            " nothing, not images that the defense withstood: their distance of 0 must not enter"
            " a mean."
        )
    if e.blank:
        found.append(
            f"returned a blank image, all pixels equal, for {_of(e, e.blank)}. A blank image may"
            " fool the model by its emptiness; it is no answer to the question how little"
            " suffices, and its distance distorts every mean."
        )
    return found


def _outside(e: Evidence) -> list[str]:
    found = []
    if e.ball[0]:
        found.append(
            f"left the ball by up to {e.ball[1]:.2g} in {_of(e, e.ball[0])}. The harness projected"
            " these images before judging them; scored as returned, they would have had a larger"
            " budget than the others."
        )
    if e.box[0]:
        found.append(
            f"left the box [0, 1] by up to {e.box[1]:.2g} in {_of(e, e.box[0])}. The harness"
            " clamped these images before judging them: as returned they are no images."
        )
    return found


def _broken(e: Evidence) -> list[str]:
    if not e.broken:
        return []
    return [
        f"returned NaN or infinity for {_of(e, e.broken)}. The harness took the clean"
        " image instead, so these count as failures of the attack."
    ]


def _start(e: Evidence) -> list[str]:
    if not e.started:
        return []
    return [
        f"used a random start, or at least did not start at the image: in {_of(e, len(e.started))}"
        f" its first gradient was taken up to {max(e.started):.2g} away from it. Its images differ"
        " from those of a library that starts at the image, and from its own under another seed,"
        " for that reason alone."
    ]


def _steady(values: Sequence[float]) -> bool:
    """Tell whether the middle half of ``values`` is one value, but for rounding."""
    if len(values) < 2:
        return False
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return max(middle - low, high - middle) <= STEADY * middle


def _is_power_of_two(factor: float) -> bool:
    exponent = math.log2(factor)
    return abs(exponent - round(exponent)) < 1e-6


def _scale(e: Evidence, others: dict[str, Evidence]) -> list[str]:
    ratio = {
        name: median(gap.ratios)
        for name, gap in e.gaps.items()
        if name in others and (_steady(gap.ratios) or _steady(gap.averaged))
    }
    ratio = {name: share for name, share in ratio.items() if share < FAINT}
    if not ratio:
        return []
    # The library with the largest gradients; the first of those that are as large.
    largest = min(ratio.values())
    name = next(name for name, share in ratio.items() if share <= (1 + STEADY) * largest)
    gap = e.gaps[name]
    mean = _steady(gap.averaged) and abs(median(gap.averaged) - 1) < STEADY
    head = (
        f"takes gradients {_mid(gap.ratios)} times as large as those of {name} at the same images"
        f" (median){', as of a loss averaged over the batch' if mean else ''}."
    )
    of = f"of {gap.compared} attempts (an image at an eps)"
    if not gap.vanished:
        none = f"{head} None of their entries underflows to 0 where that of {name} does not"
        if gap.turned:
            return [f"{none}, but in {gap.turned} {of} an entry is rounded to the other sign."]
        step = "a sign step" if e.norm == "linf" else "the direction of a step"
        after = "."
        if gap.others_differ:
            after = (
                f"; its images still differ from those of {name} in {gap.others_differ} {of}, for"
                " a reason that shows later on the way."
            )
            if not _is_power_of_two(median(gap.ratios)):
                after += (
                    " This factor, no power of two, rounds every entry again, and can turn the sign"
                    " of one that nearly cancels."
                )
        return [f"{none}, so at the image {step} is unaffected{after}"]
    become = "underflow to" if 2 * gap.underflown >= gap.vanished else "are"
    rest = gap.compared - gap.vanished
    return [
        f"{head} In {gap.vanished} {of} entries of them {become} exactly 0 where those of {name}"
        f" are not, and a step leaves such a pixel where it is. Of the images of these attempts"
        f" {gap.vanished_differ} differ from {name}'s, of the {rest} others {gap.others_differ}."
    ]


def _cost(e: Evidence) -> list[str]:
    found = []
    if e.short and e.asked:
        found.append(
            f"stopped early: in {_of(e, len(e.short))} it used fewer gradients than the {e.asked}"
            f" that were asked for (median {_count(e.short)}). It did less work than its settings"
            " say: compare its seconds and its success with that in mind."
        )
    if e.more and e.asked:
        found.append(
            f"used more gradients than the {e.asked} that were asked for in {_of(e, len(e.more))}"
            f" (median {_count(e.more)}). At equal settings it had more work to succeed with than"
            " the others."
        )
    if e.missed:
        found.append(
            f"{e.missed} of its queries could not be attributed to an image; what it tried in them"
            " is not part of these findings."
        )
    return found


def _gave_up(e: Evidence) -> list[str]:
    if not e.gave_up:
        return []
    return [
        f"gave up on {_of(e, len(e.gave_up))} that another library solved, at a median distance of"
        f" {_mid(e.gave_up)}. On these the model is not robust; this attack is too weak to show it."
    ]


def _farther(e: Evidence) -> list[str]:
    found = []
    if e.farther:
        found.append(
            f"returns a farther image than the nearest adversarial one that it queried for"
            f" {_of(e, len(e.farther))} (median ratio {_mid(e.farther)}). Its distances overstate"
            " the robustness by that ratio."
        )
    if e.minimal and e.beaten and median(e.beaten) > FARTHER:
        found.append(
            f"needs {_mid(e.beaten)} times the distance of the best library at the median, over"
            f" the {_images(len(e.beaten))} that it solved. Its median distance overstates the"
            " robustness by that ratio."
        )
    return found
