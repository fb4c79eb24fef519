"""Defenses and attacks that break the interface, each in one way (see test_wrong_plugins.py)."""

import ctypes
import os
import random
import sys
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from toys import Tiny

from benchmark.attacks.base import BudgetAttack, MinimalAttack
from benchmark.models.defense import Defense
from benchmark.plugins import time_limit
from benchmark.training import TrainingLog


def hurry() -> None:
    """Have the time limit that runs pass at once, so that no test waits for one."""
    watch = time_limit._running.get()
    assert watch is not None
    watch.seconds = 0.01
    watch.renew()


def hang() -> None:
    hurry()
    while True:
        try:
            while True:
                pass
        except Exception:
            continue


def hang_in_c() -> None:
    """Wait for a lock that this thread holds: no signal ends that."""
    hurry()
    lock = ctypes.CDLL(None).pthread_mutex_lock
    mutex = ctypes.create_string_buffer(256)
    while True:
        lock(mutex)


class Brightness(Defense):
    """Two scores from the mean brightness, eight from nothing; it needs no training."""

    def __init__(self, info):
        super().__init__(info)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, info.n_classes), nn.BatchNorm1d(10))
        self.register_buffer("seen", torch.zeros(()))

    def fit(self, data, *, seed, progress):
        return TrainingLog()

    def forward(self, x):
        return self.net(x)


# --- defenses that cannot be made or trained


class ExitsInInit(Brightness):
    def __init__(self, info):
        super().__init__(info)
        sys.exit(3)


class ExitsInFit(Brightness):
    def fit(self, data, *, seed, progress):
        raise SystemExit


class RaisesItsOwn(Brightness):
    class Stop(BaseException):
        pass

    def fit(self, data, *, seed, progress):
        raise self.Stop("enough")


class RaisesInFit(Brightness):
    def fit(self, data, *, seed, progress):
        raise RuntimeError("first line\nsecond line")


class RaisesWhatCannotBeShown(Brightness):
    class MuteError(Exception):
        def __str__(self):
            raise ValueError

    def fit(self, data, *, seed, progress):
        raise self.MuteError


class RaisesAtLength(Brightness):
    def fit(self, data, *, seed, progress):
        raise ValueError("\x1b[31mno" + " end" * 100_000)


class RecursesInFit(Brightness):
    def fit(self, data, *, seed, progress):
        return self.fit(data, seed=seed, progress=progress)


class HangsInFit(Brightness):
    def fit(self, data, *, seed, progress):
        hang()


class ReturnsNoLog(Brightness):
    def fit(self, data, *, seed, progress):
        return {"loss": 1.0}


class SpoilsTheData(Brightness):
    def fit(self, data, *, seed, progress):
        data.images.zero_()
        return TrainingLog()


class RaisesInMeasure(Brightness):
    def measure(self, data):
        raise RuntimeError("no measure")


class MeasuresATensor(Brightness):
    def measure(self, data):
        return {"value": torch.ones(2)}


class SpoilsTheTestImages(Brightness):
    def measure(self, data):
        data.labels.zero_()
        return {}


class RaisesInEmbed(Brightness):
    def embed(self, x):
        raise RuntimeError("no codes")


# --- defenses whose answers cannot be measured


class RaisesInForward(Brightness):
    def forward(self, x):
        raise RuntimeError("no forward")


class RaisesInPredict(Brightness):
    def predict(self, x):
        raise RuntimeError("no label")


class WarnsAsAnError(Brightness):
    def forward(self, x):
        warnings.simplefilter("error")
        warnings.warn("old", DeprecationWarning, stacklevel=1)


class WrongShape(Brightness):
    def forward(self, x):
        return super().forward(x)[:, :-1]


class NoTensor(Brightness):
    def forward(self, x):
        return super().forward(x).tolist()


class NotANumber(Brightness):
    def forward(self, x):
        logits = super().forward(x)
        return torch.cat([logits[:-1], logits[-1:] * torch.nan])


class Infinite(Brightness):
    def forward(self, x):
        return super().forward(x) / 0


class FloatLabels(Brightness):
    def predict(self, x):
        return super().predict(x).float()


class LabelsOfItsOwn(Brightness):
    def predict(self, x):
        return super().predict(x) + self.info.n_classes


class TooFewLabels(Brightness):
    def predict(self, x):
        return super().predict(x)[:1]


class ChangesItsWeights(Brightness):
    def forward(self, x):
        with torch.no_grad():
            self.net[1].weight.mul_(1.01)
        return super().forward(x)


class ChangesItsBuffers(Brightness):
    def forward(self, x):
        self.seen += len(x)
        return super().forward(x)


class GrowsAParameter(Brightness):
    def forward(self, x):
        self.extra = nn.Parameter(torch.zeros(1))
        return super().forward(x)


class ChangesItsInput(Brightness):
    def forward(self, x):
        return super().forward(x.mul_(0.5))


class TrainsOn(Brightness):
    def forward(self, x):
        self.train()
        return super().forward(x)


class StopsGradients(Brightness):
    def forward(self, x):
        torch.set_grad_enabled(False)
        return super().forward(x)


class SetsTheDefaultDtype(Brightness):
    def forward(self, x):
        torch.set_default_dtype(torch.float64)
        return super().forward(x)


class SetsThreads(Brightness):
    def forward(self, x):
        torch.set_num_threads(torch.get_num_threads() + 1)
        return super().forward(x)


class Seeds(Brightness):
    def forward(self, x):
        torch.manual_seed(0)
        return super().forward(x)


class SeedsOthers(Brightness):
    def forward(self, x):
        random.seed(0)
        np.random.seed(0)
        return super().forward(x)


class HangsInForward(Brightness):
    def forward(self, x):
        hang()


class HangsInC(Brightness):
    def forward(self, x):
        hang_in_c()


class LeavesTheFolder(Brightness):
    """Not wrong in itself: its folder and its threads are its own affair until it is done."""

    def fit(self, data, *, seed, progress):
        os.chdir("/")
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(5)
        warnings.simplefilter("error")
        return super().fit(data, seed=seed, progress=progress)


# --- defenses that are spoiled only by the attack


class WearsOut(Tiny):
    """Changes its weights from its sixth pass with a gradient on."""

    def fit(self, data, *, seed, progress):
        log = super().fit(data, seed=seed, progress=progress)
        self.passes = 0
        return log

    def forward(self, x):
        if not self.training and torch.is_grad_enabled():
            self.passes = getattr(self, "passes", 0) + 1
        if getattr(self, "passes", 0) > 5:
            self.net[1].bias.data.add_(1.0)
        return super().forward(x)


class BreaksUnderAttack(Tiny):
    """No number, unless every pixel has a grey level of a clean image."""

    def forward(self, x):
        clean = ((x * 255 - (x * 255).round()).abs() < 1e-3).flatten(1).all(1)
        return torch.where(clean[:, None], super().forward(x), torch.nan)


# --- attacks


@dataclass(frozen=True, kw_only=True)
class Nothing(BudgetAttack):
    """Finds nothing, honestly."""

    def run(self, view, x, y, *, eps, generator):
        return self.change(view, x.clone(), y)

    def change(self, view, x, y):
        return x


class RaisesInRun(Nothing):
    def change(self, view, x, y):
        raise RuntimeError("out of luck")


class ExitsInRun(Nothing):
    def change(self, view, x, y):
        sys.exit("bye")


class HangsInRun(Nothing):
    def change(self, view, x, y):
        hang()


class ReturnsNothing(Nothing):
    def change(self, view, x, y):
        return None


class ReturnsFewer(Nothing):
    def change(self, view, x, y):
        return x[:1]


class ReturnsBytes(Nothing):
    def change(self, view, x, y):
        return (x * 255).byte()


class ReturnsNoNumber(Nothing):
    def change(self, view, x, y):
        return x * torch.nan


class MovesTheCleanImages(Nothing):
    """Would seem to fool the model at distance 0."""

    def run(self, view, x, y, *, eps, generator):
        return x.copy_(1 - x)


class Relabels(Nothing):
    def change(self, view, x, y):
        y.zero_()
        return x


class ChangesTheModel(Nothing):
    def change(self, view, x, y):
        for parameter in view.defense.parameters():
            parameter.data.zero_()
        return x


class SwitchesToTraining(Nothing):
    def change(self, view, x, y):
        view.defense.train()
        return x


class SwitchesGradientsOff(Nothing):
    def change(self, view, x, y):
        torch.set_grad_enabled(False)
        return x


class TakesTheThreads(Nothing):
    def change(self, view, x, y):
        torch.set_num_threads(torch.get_num_threads() + 1)
        return x


@dataclass(frozen=True, kw_only=True)
class HangsAtALargerEps(BudgetAttack):
    def run(self, view, x, y, *, eps, generator):
        if eps > 0.15:
            hang()
        return x.clone()


@dataclass(frozen=True, kw_only=True)
class HangsForAllEps(MinimalAttack):
    def run(self, view, x, y, *, generator):
        hang()


@dataclass(frozen=True, kw_only=True)
class RaisesWhenBuilt(Nothing):
    def __post_init__(self):
        raise RuntimeError("no such device")


# --- defenses that answer in another form than float32 logits: attacked as they answer


class Half(Brightness):
    def forward(self, x):
        return super().forward(x).half()


class Coarse(Brightness):
    def forward(self, x):
        return super().forward(x).bfloat16()


class Double(Brightness):
    def forward(self, x):
        return super().forward(x).double()


class Probabilities(Brightness):
    def forward(self, x):
        return super().forward(x).softmax(1)


class OneHot(Brightness):
    def forward(self, x):
        return nn.functional.one_hot(super().forward(x).argmax(1), self.info.n_classes)


class StraightThrough(Brightness):
    def forward(self, x):
        soft = super().forward(x).softmax(1)
        hard = nn.functional.one_hot(soft.argmax(1), self.info.n_classes)
        return hard + soft - soft.detach()


class Complex(Brightness):
    def forward(self, x):
        return super().forward(x) + 0j
