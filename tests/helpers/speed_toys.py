"""Toy attack libraries, and plans of speed measurements that take a moment."""

from dataclasses import dataclass
from typing import ClassVar

from toys import Nearest

from benchmark import registry
from benchmark.attacks.peers.library import AttackLibrary
from benchmark.attacks.pgd import PGD
from benchmark.registry import Registry
from benchmark.speed import plan as speed_plan
from benchmark.speed.plan import SpeedSettings, plan_speed


@dataclass(frozen=True, kw_only=True)
class ToyPGD(PGD):
    library: ClassVar = "toy"
    fixed: ClassVar = {"early_stop": False}
    early_stop: bool = False


@dataclass(frozen=True, kw_only=True)
class ToyCW(Nearest):
    library: ClassVar = "toy"
    fixed: ClassVar = {"search_steps": 1}
    steps: int = 10
    search_steps: int = 1
    initial_c: float = 1.0
    lr: float = 0.1
    abort_early: bool = True

    def run(self, view, x, y, *, generator):
        view.logits(x)
        return x


TOYS = {
    "toy": AttackLibrary("toy", "json", "pip", "pip install toy", {"pgd": ToyPGD, "cw": ToyCW}),
    "half": AttackLibrary("half", "json", "pip", "pip install half", {"pgd": ToyPGD}),
    "absent": AttackLibrary("absent", "no_such_package", "none", "pip install absent", {}),
}


def use_toys(monkeypatch) -> None:
    """Put toy libraries in place of those installed, and a model that trains in a moment."""
    entries, load = Registry.entries, Registry.load

    def toy_entries(self):
        return dict.fromkeys(TOYS) if self is registry.LIBRARIES else entries(self)

    def toy_load(self, name):
        return TOYS[name] if self is registry.LIBRARIES else load(self, name)

    monkeypatch.setattr(Registry, "entries", toy_entries)
    monkeypatch.setattr(Registry, "load", toy_load)
    monkeypatch.setattr("benchmark.attacks.peers.library.entry_points", lambda group: [group])
    monkeypatch.setattr(speed_plan, "UNDEFENDED", "toys:Tiny")


def planned(**settings):
    asked = {"dataset": "digits", "preset": "smoke", "defense": "toys:Tiny", **settings}
    return plan_speed(SpeedSettings(**asked))


def task_of(plan, name):
    (task,) = [task for task in plan.tasks if task.name == name]
    return task
