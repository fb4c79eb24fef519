"""A run of every defense and attack, in a moment, here or in another process."""

from pathlib import Path

import pytest
import torch

from benchmark.config import presets
from benchmark.config.spec import RunSpec
from benchmark.execution import runner
from benchmark.execution.plan import plan
from benchmark.progress import Progress

PRESET = {
    "description": "every way through a sweep, in a moment",
    "defaults": {
        "n_train": 100,
        "n_test": 12,
        "attacks": ["pgd"],
        "eps": {"linf": [0.0, 0.1, 0.3], "l2": [0.0, 0.5, 2.0]},
        "training": {"epochs": 2, "batch_size": 25, "adversary_steps": 2, "lr": 0.01},
        "defense_options": {"width": 0.05, "code_dim": 4},
        "attack_settings": {
            "pgd": {"steps": 12},  # enough for one search to serve the sweep
            "pgd-eot": {"type": "pgd", "eot": 2, "steps": 2, "n": 6},
            "fgsm": {"n": 9},
            "cw": {"steps": 8, "search_steps": 2},
        },
        "code_map": {"defenses": ["e-cla"], "attack": "fgsm", "eps": 0.1, "n": 12},
    },
}


DEFENSES = ("undefended", "e-cla", "rse")


ATTACKS = ("pgd", "fgsm", "cw", "pgd-eot")


LIBRARIES = ("inhouse", "torchattacks")


NAMED = "torchattacks:PGD(steps=3)"
"""Draws its starts from the sweep's one generator, batch by batch."""


def planned(**changes) -> RunSpec:
    asked = {"defenses": DEFENSES, "attacks": (*ATTACKS, NAMED), "libraries": ("inhouse",)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presets, "read_preset", lambda name: PRESET)
        return plan(dataset="digits", preset="smoke", device="cpu", **{**asked, **changes})


def ran(wanted: RunSpec, out: Path, cache: Path, **options) -> Path:
    """Run ``wanted`` with the models in ``cache``; return the run's folder."""
    asked = {"command": "", "progress": Progress(), "audit": False, **options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHMARK_CACHE_DIR", str(cache))
        result = runner.run(wanted, out=out, **asked)
    assert result.n_failed == 0
    return result.path


def in_another_process(folder: str) -> None:
    """What the process that the fixture starts does: the whole run once, and twice in two threads.

    The latter of two defenses and two attacks: threads wait long for each other on a busy machine.
    """
    torch.set_num_threads(1)
    ran(planned(), Path(folder) / "one", Path(folder) / "cache")
    torch.set_num_threads(2)
    for name in ("two", "two again"):
        wanted = planned(defenses=("undefended", "rse"), attacks=("pgd", NAMED))
        ran(wanted, Path(folder) / name, Path(folder) / f"cache of {name}")
