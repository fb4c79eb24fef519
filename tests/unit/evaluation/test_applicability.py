"""Which attacks are skipped on which defenses."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from toys import Linear, Noisy, pixels

from benchmark.attacks.base import Attack
from benchmark.attacks.cw import CarliniWagner
from benchmark.attacks.peers import art, torchattacks
from benchmark.attacks.peers.library import AttackLibrary
from benchmark.attacks.pgd import PGD
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.evaluation.applicability import unsuited
from benchmark.registry import ATTACKS, LIBRARIES

W = pixels(1.0, 1.0, 1.0, 1.0)


class Opaque(Linear):
    """Passes no gradient to the image; its stand-in does."""

    differentiable: ClassVar[bool] = False

    def forward(self, x):
        return super().forward(x.detach())

    def surrogate(self, x):
        return super().forward(x)


class Generating(Opaque):
    latent_dim = 3


class StandIn(Linear):
    """Calls itself differentiable, and names a stand-in nevertheless."""

    def surrogate(self, x):
        return 2 * self.forward(x)


@dataclass(frozen=True, kw_only=True)
class Latent(Attack):
    needs_generator: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Asking(Attack):
    """Asks for answers only."""

    needs_gradient: ClassVar[bool] = False


DEFENSES = {
    "plain": Linear(W),
    "noisy": Noisy(W, [0.1, -0.1]),
    "opaque": Opaque(W),
    "generating": Generating(W),
    "stand-in": StandIn(W),
}
GENERATOR = "this defense has no generator"
GRADIENT = "this defense passes none to the image without BPDA"
BPDA = "this defense is differentiable"
EOT = "all 10 draws are equal"


@pytest.mark.parametrize(
    ("attack", "settings", "skipped"),
    [
        (PGD(), {}, {"opaque": GRADIENT, "generating": GRADIENT}),
        (CarliniWagner(), {}, {"opaque": GRADIENT, "generating": GRADIENT}),
        (PGD(), {"bpda": True}, {"plain": BPDA, "noisy": BPDA}),
        (
            PGD(),
            {"eot": 10},
            {"plain": EOT, "stand-in": EOT, "opaque": GRADIENT, "generating": GRADIENT},
        ),
        (
            PGD(),
            {"eot": 10, "bpda": True},
            {"plain": BPDA, "noisy": BPDA, "stand-in": EOT, "opaque": EOT, "generating": EOT},
        ),
        (
            Latent(),
            {},
            {name: GENERATOR for name in DEFENSES if name != "generating"},
        ),
        (Asking(), {}, {}),
        (Asking(), {"eot": 10}, {name: EOT for name in DEFENSES if name != "noisy"}),
    ],
)
def test_what_is_skipped_and_why(attack, settings, skipped):
    spec = AttackSpec("attack", ThreatModel("linf", (0.0, 0.1)), 5, **settings)
    found = {name: unsuited(defense, attack, spec) for name, defense in DEFENSES.items()}
    assert {name for name, reason in found.items() if reason} == set(skipped)
    for name, words in skipped.items():
        assert words in found[name]


def test_the_instance_is_asked():
    defense = Noisy(W, [0.0])
    defense.stochastic = False
    spec = AttackSpec("pgd", ThreatModel("linf", (0.1,)), 5, eot=10)
    assert EOT in unsuited(defense, PGD(), spec)


@pytest.mark.parametrize(
    "cls",
    [
        art.LIBRARY.attack("SquareAttack"),
        art.LIBRARY.attack("ProjectedGradientDescent"),
        torchattacks.LIBRARY.attack("Square"),
        torchattacks.LIBRARY.attack("APGD"),
    ],
    ids=lambda cls: f"{cls.library}:{cls.__name__}",
)
def test_attacks_by_their_class_are_never_skipped_for_the_gradient(cls):
    spec = AttackSpec("attack", ThreatModel("linf", (0.1,)), 5, library=cls.library)
    assert unsuited(DEFENSES["opaque"], cls(), spec) == ""


def test_adapters_of_known_attacks_follow_the_gradient_as_the_attack_they_stand_for():
    own = {name: ATTACKS.load(name).needs_gradient for name in ("pgd", "pgd-l2", "cw")}
    assert own == dict.fromkeys(own, True)
    for name in LIBRARIES.names():
        library: AttackLibrary = LIBRARIES.load(name)
        for known in set(own) & set(library.attacks):
            assert library.attacks[known].needs_gradient, (name, known)
