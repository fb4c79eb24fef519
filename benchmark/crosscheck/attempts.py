"""One library's attack on a data set under one budget: what it returned, and what it tried.

Each batch is judged as in the eps sweep (:func:`benchmark.evaluation.scoring.attack_batch`); a
recording view gathers the evidence beside it. Every library gets the same batches and the same
seed.
"""

import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmark.attacks.base import Attack, MinimalAttack
from benchmark.attacks.norms import distance
from benchmark.attacks.view import AttackView
from benchmark.batching import BATCH_SIZE
from benchmark.config.spec import AttackSpec
from benchmark.crosscheck.findings import VISIBLE, Evidence
from benchmark.crosscheck.gradients import Gradients
from benchmark.crosscheck.recorder import Recorder, blanked, recording_view
from benchmark.datasets.dataset import ImageDataset
from benchmark.evaluation.scoring import (
    LEFT_BALL,
    LEFT_BOX,
    Judged,
    Searching,
    ViewSettings,
    Violation,
    attack_batch,
    searching,
)
from benchmark.hashing import digest_bytes
from benchmark.models.defense import Defense
from benchmark.progress import Advance
from benchmark.seeding import generator, seeded

UNMOVED = 1e-6
"""An image whose pixels all changed by at most this much counts as returned unchanged."""


@dataclass(frozen=True)
class Scene:
    """What all libraries share: the model, the images, and its predictions without an attack."""

    defense: Defense
    data: ImageDataset
    pred_clean: Tensor
    inside: float

    @property
    def labels(self) -> Tensor:
        """Labels (n,), int64, on the CPU."""
        return self.data.labels.cpu()

    @property
    def correct(self) -> Tensor:
        """Which images are classified correctly without attack (n,), bool: those to attack."""
        return self.pred_clean == self.labels


@dataclass(frozen=True)
class Attempt:
    """A library's images under one budget (infinite: none). All tensors (n, ...), on the CPU.

    A clean error keeps its image, at distance 0. ``seconds`` is the attack's own time.
    """

    images: Tensor
    pred: Tensor
    success: Tensor
    distance: Tensor
    forwards: Tensor
    backwards: Tensor
    tried_better: Tensor
    gradients: Gradients
    seconds: float

    def digests(self) -> list[str]:
        """Return a hash of each image's bits; adding 0.0 makes one of the two zeros."""
        images = (self.images + 0.0).contiguous().numpy()
        return [digest_bytes([image.tobytes()])[:16] for image in images]


def new_evidence(spec: AttackSpec, attack: Attack) -> Evidence:
    """Return empty evidence on ``attack``, with what its settings ask for."""
    asked = None
    if hasattr(attack, "steps"):
        asked = spec.eot * math.prod(
            getattr(attack, name, 1) for name in ("steps", "restarts", "search_steps")
        )
    return Evidence(
        minimal=isinstance(attack, MinimalAttack),
        norm=spec.threat.norm,
        asked=asked,
        asked_last=bool(getattr(attack, "return_last", False)) and spec.library == "inhouse",
    )


def attempt(
    scene: Scene,
    spec: AttackSpec,
    attack: Attack,
    eps: float,
    seed: int,
    evidence: Evidence,
    advance: Advance,
) -> Attempt:
    """Run ``attack`` with budget ``eps`` and judge it; adds to ``evidence``."""
    device = scene.data.device
    n = len(scene.data)
    images = scene.data.x().cpu()
    found = Attempt(
        images=images,
        pred=scene.pred_clean.clone(),
        success=~scene.correct,
        distance=torch.zeros(n, dtype=torch.float64),
        forwards=torch.zeros(n, dtype=torch.int64),
        backwards=torch.zeros(n, dtype=torch.int64),
        tried_better=torch.zeros(n, dtype=torch.bool),
        gradients=Gradients.none(images),
        seconds=0.0,
    )
    seconds = 0.0
    rng = generator(seed, device)
    # For libraries that take no generator, and for the defense's own noise.
    with seeded(seed, device, scene.defense):
        remaining = scene.correct.nonzero().flatten()
        advance(n - len(remaining), spec.library)
        for rows in torch.split(remaining, BATCH_SIZE) if len(remaining) else ():
            on_device = rows.to(device)
            x, y = scene.data.x(on_device), scene.data.labels[on_device]
            recorder = Recorder(x, y, eps=eps, norm=spec.threat.norm)
            search = _Timed(searching(attack, eps, rng), device)
            judged = attack_batch(
                *(scene.defense, search, x, y),
                eps=eps,
                norm=spec.threat.norm,
                n_classes=scene.data.info.n_classes,
                view=recording_view(
                    scene.defense, recorder, eot=spec.eot, bpda=spec.bpda, inside=scene.inside
                ),
            )
            seconds += max(0.0, search.seconds - recorder.seconds)
            for violation in judged.violations:
                _add_violation(evidence, violation)
            found.images[rows] = judged.x_adv.cpu()
            for name in ("pred", "distance", "success", "forwards", "backwards"):
                getattr(found, name)[rows] = getattr(judged, name)
            found.gradients.put(rows, recorder.gradients)
            if scene.defense.stochastic:  # one query's answer says nothing of the next
                recorder.fooled.zero_()
            found.tried_better[rows] = _examine(
                evidence, recorder, attack, search.returned.detach().to(x), judged, eps
            )
            _count_costs(evidence, judged.backwards)
            advance(len(rows))
    return replace(found, seconds=seconds)


class _Timed:
    """A search that keeps what it returned and the ``seconds`` that it took."""

    def __init__(self, search: Searching, device: torch.device) -> None:
        self.search, self.device = search, device
        self.returned = torch.empty(0)
        self.seconds = 0.0

    def __call__(self, view: AttackView, x: Tensor, y: Tensor) -> Tensor:
        start = _now(self.device)
        self.returned = self.search(view, x, y)
        self.seconds = _now(self.device) - start
        return self.returned


def warm_up(scene: Scene, spec: AttackSpec, attack: Attack) -> None:
    """Run one step on one image, so that what a library does once (imports) is not timed."""
    if not hasattr(attack, "steps") or len(scene.data) == 0:
        return
    x, y = scene.data.x(slice(1)), scene.data.labels[:1]
    rng = generator(0, scene.data.device)
    with (
        suppress(Exception),
        seeded(0, scene.data.device, scene.defense),
    ):  # the run itself will tell
        short: Attack = replace(attack, steps=1)  # type: ignore[call-arg]
        with ViewSettings(inside=scene.inside).view(scene.defense, 1) as view:
            searching(short, max(spec.threat.eps), rng)(view, x, y)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _add_violation(evidence: Evidence, found: Violation) -> None:
    if found.what == LEFT_BOX:
        evidence.box = (evidence.box[0] + found.count, max(evidence.box[1], found.by))
    elif found.what == LEFT_BALL:
        evidence.ball = (evidence.ball[0] + found.count, max(evidence.ball[1], found.by))
    else:
        evidence.broken += found.count


def _examine(
    evidence: Evidence,
    recorder: Recorder,
    attack: Attack,
    raw: Tensor,
    judged: Judged,
    eps: float,
) -> Tensor:
    """Add a batch to the evidence; return which images had a better query (N,), on the CPU.

    ``raw`` (N, C, H, W) is what the attack returned.
    """
    x, success = recorder.x, judged.success
    evidence.attempts += len(x)
    evidence.missed += recorder.missed
    evidence.clean += int(((raw - x).abs().flatten(1).amax(1) <= UNMOVED).sum())
    evidence.blank += int(blanked(raw, x).sum())
    start = recorder.start[~recorder.start.isnan()]
    away = start[start > (VISIBLE if math.isinf(eps) else min(VISIBLE, eps / 4))]
    evidence.started += away.tolist()
    if eps > VISIBLE:
        moved = torch.maximum(recorder.reach, (judged.x_adv - x).abs()) > VISIBLE
        edge = (x == 0) | (x == 1)
        evidence.edge = _add(evidence.edge, moved[edge])
        evidence.interior = _add(evidence.interior, moved[~edge])
    better = recorder.fooled.cpu() & ~success
    evidence.lost += int(better.sum())
    evidence.lost_at_last += int((better & _is_last(recorder, attack, raw, eps)).sum())
    if isinstance(attack, MinimalAttack) and not getattr(attack, "confidence", 0):
        ratio = judged.distance / recorder.nearest.cpu().clamp_min(1e-12)
        nearer = success & (ratio > 1.001) & recorder.fooled.cpu()
        evidence.farther += ratio[nearer].tolist()
        better |= nearer
    return better


def _add(counts: tuple[int, int], moved: Tensor) -> tuple[int, int]:
    return counts[0] + int(moved.sum()), counts[1] + moved.numel()


def _is_last(recorder: Recorder, attack: Attack, raw: Tensor, eps: float) -> Tensor:
    """Return which images are the last query or a step beyond it (N,), on the CPU."""
    step = 0.0
    if not math.isinf(eps) and hasattr(attack, "steps"):
        step = getattr(attack, "step_size", None) or 2.5 * eps / attack.steps
    away = distance(raw, recorder.last, attack.norm)
    return (away <= step * 1.001 + UNMOVED).cpu()


def _count_costs(evidence: Evidence, backwards: Tensor) -> None:
    if evidence.asked is not None:
        used = backwards.double()
        evidence.short += used[backwards < evidence.asked].tolist()
        evidence.more += used[backwards > evidence.asked].tolist()
