"""Every attack class of ART and torchattacks: it runs, or is refused in a line that says why.

docs/attack-libraries.md lists them; its tables are printed by
``PYTHONPATH=tests/helpers python tests/unit/attacks/test_attack_classes.py``.
"""

from dataclasses import fields
from importlib.metadata import version
from importlib.util import find_spec

import pytest
import torch
from paths import ROOT
from torch import nn

from benchmark.attacks.base import BudgetAttack, build_attack
from benchmark.attacks.loader import attack_class
from benchmark.attacks.peers import art, torchattacks
from benchmark.attacks.view import attack_view
from benchmark.datasets.info import DatasetInfo
from benchmark.errors import UsageError
from benchmark.evaluation.scoring import enforce_threat_model
from benchmark.execution.plan import plan
from benchmark.models.defense import Defense
from benchmark.seeding import generator, seeded

DOCS = ROOT / "docs" / "attack-libraries.md"
VERSIONS = {
    "art": ("adversarial-robustness-toolbox", "1.20.1"),
    "torchattacks": ("torchattacks", "3.5.1"),
}
INFO = DatasetInfo("own", (3, 8, 8), 4, tuple("abcd"), augment=False)

FEW = ("steps", "max_iter", "max_iterations", "nb_steps")
"""Parameters that say how long an attack searches: 2 here."""

SHORT = {
    "BoundaryAttack": {"num_trial": 3, "sample_size": 3, "init_size": 10},
    "BrendelBethgeAttack": {"overshoot": 1.1, "binary_search_steps": 2, "init_size": 10},
    "CarliniL0Method": {"binary_search_steps": 1},
    "CarliniL2Method": {"binary_search_steps": 1},
    "EADEN": {"binary_search_steps": 1, "max_iterations": 10},
    "EADL1": {"binary_search_steps": 1, "max_iterations": 10},
    "FAB": {"n_restarts": 1},
    "GeoDA": {"max_iter": 300, "sub_dim": 3},
    "HopSkipJump": {"max_eval": 20, "init_eval": 10, "init_size": 10},
    "PixelAttack": {"th": 1},
    "SPSA": {"nb_iter": 1, "nb_sample": 8},
    "SignOPTAttack": {"num_trial": 5, "k": 5, "query_limit": 50},
    "Square": {"n_queries": 10},
    "ThresholdAttack": {"th": 1},
    "ZooAttack": {"binary_search_steps": 1, "nb_parallel": 4},
}

UNASKING = ("GN", "VANILA")
"""Noise, and the image itself: no question to the model."""


class Net(Defense):
    """An untrained network on 8x8 colour images."""

    def __init__(self):
        super().__init__(INFO)
        with seeded(0):
            self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
        # As the runner does: what a library takes of its gradients must be in one piece.
        self.to(memory_format=torch.channels_last).eval()

    def forward(self, x):
        return self.net(x)


def classes(library):
    """Return the names of the library's attack classes, in its own order."""
    if library == "art":
        from art.attacks import evasion as module
        from art.attacks.attack import EvasionAttack as Base
    else:
        import torchattacks as module
        from torchattacks.attack import Attack as Base
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Base) and value is not Base
    ]


def refused(library, name):
    """Return why the class does not run here; "" if it does."""
    if name in {"art": art, "torchattacks": torchattacks}[library].UNABLE:
        return {"art": art, "torchattacks": torchattacks}[library].UNABLE[name]
    package = art.PACKAGES.get(name) if library == "art" else None
    return f"needs the package {package}" if package and find_spec(package) is None else ""


def shortened(library, name, **more):
    cls = attack_class(name, library)
    known = {field.name: field.default for field in fields(cls)}
    settings = {key: 2 for key in FEW if key in known} | SHORT.get(name, {}) | more
    return build_attack(cls, name, known["norm"], settings)


def search(attack, n=2):
    model, x = Net(), torch.rand(n, 3, 8, 8, generator=generator(1))
    y = model.predict(x)
    with seeded(1), attack_view(model, n) as view:
        budget = {"eps": 0.1} if isinstance(attack, BudgetAttack) else {}
        found = attack.run(view, x, y, generator=generator(2), **budget)
        forwards, _ = view.counts()
    assert forwards.min() > 0 or type(attack).__name__ in UNASKING
    kept, violations = enforce_threat_model(found, x, torch.inf, attack.norm)
    assert not [violation for violation in violations if violation.what.startswith("not a number")]
    return x, y, kept, model.predict(kept) != y


@pytest.fixture
def plain_steps(monkeypatch):
    """Brendel and Bethge's solvers take numba a minute to compile: a plain step in their place."""
    from art.attacks.evasion import brendel_bethge

    class Straight:
        def solve(self, x0, x, boundary, low, high, wanted, radius):
            return 0.1 * (x0 - x)

    monkeypatch.setattr(brendel_bethge, "LinfOptimizer", Straight)


@pytest.mark.usefixtures("plain_steps")
@pytest.mark.parametrize(
    ("library", "name"), [(library, name) for library in VERSIONS for name in classes(library)]
)
def test_every_class_runs_or_says_why_not(library, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    why = refused(library, name)
    if why:
        with pytest.raises(UsageError, match=rf"^{library}:{name} .*{why}") as caught:
            plan(dataset="digits", preset="smoke", device="cpu", attacks=[f"{library}:{name}"])
        assert "\n" not in str(caught.value)
        return
    x, _, found, _ = search(shortened(library, name))
    assert found.shape == x.shape
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("BoundaryAttack", {"init_size": 1000}),
        ("GeoDA", {"max_iter": 500, "sub_dim": 8}),
        ("HopSkipJump", {"init_size": 1000}),
        ("NewtonFool", {"max_iter": 10}),
        ("SaliencyMapMethod", {}),
        (
            "ShadowAttack",
            {
                "nb_steps": 20,
                "learning_rate": 5.0,
                "lambda_tv": 0.0,
                "lambda_c": 0.0,
                "lambda_s": 0.0,
            },
        ),
        ("SimBA", {"max_iter": 100}),
    ],
)
def test_what_took_float64_labels_or_batches_otherwise_finds_images(name, settings):
    _, _, _, fooled = search(shortened("art", name, **settings))
    assert fooled.all()


def test_jsma_aims_at_a_class_that_there_is():
    """torchattacks aims at (label + 1) % 10: of four classes the last has no such next one."""
    attack, model = shortened("torchattacks", "JSMA"), Net()
    x = torch.rand(2, 3, 8, 8, generator=generator(1))
    with seeded(1), attack_view(model, 2) as view:
        found = attack.run(view, x, torch.tensor([3, 3]), generator=generator(2))
    assert (model(found)[:, 0] > model(x)[:, 0]).all()


def table(library):
    """Return the table of docs/attack-libraries.md, a line per class."""
    module = {"art": art, "torchattacks": torchattacks}[library]
    lines = ["| class | judged in | runs |", "|---|---|---|"]
    for name in sorted(classes(library), key=str.lower):
        package = art.PACKAGES.get(name) if library == "art" else None
        if name in module.UNABLE:
            lines.append(f"| `{name}` | | no: {module.UNABLE[name]} |")
        elif package:
            lines.append(f"| `{name}` | | with `pip install {package}` |")
        else:
            cls = attack_class(name, library)
            norm = {field.name: field.default for field in fields(cls)}["norm"]
            how = "at each eps" if issubclass(cls, BudgetAttack) else "once"
            lines.append(f"| `{name}` | {norm} | {how} |")
    return "\n".join(lines)


@pytest.mark.parametrize("library", VERSIONS)
def test_the_page_lists_what_runs(library):
    distribution, looked_at = VERSIONS[library]
    if version(distribution) != looked_at:
        pytest.skip(f"the page is about {distribution} {looked_at}")
    assert table(library) in DOCS.read_text("utf-8")


if __name__ == "__main__":
    for one in VERSIONS:
        print(f"\n### {one}\n\n{table(one)}")  # noqa: T201
