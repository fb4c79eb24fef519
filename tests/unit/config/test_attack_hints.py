"""An unknown attack is answered with what the installed libraries really have."""

from dataclasses import replace

import pytest

from benchmark.attacks.loader import attack_class
from benchmark.config.attack_hints import ALIASES, nearest_attacks, unknown_library
from benchmark.config.attack_syntax import parse_named
from benchmark.errors import UsageError
from benchmark.execution.plan import plan
from benchmark.registry import ATTACKS, LIBRARIES


def refused(*attacks: str, libraries: tuple[str, ...] = ()) -> str:
    with pytest.raises(UsageError) as caught:
        plan(dataset="digits", preset="smoke", device="cpu", attacks=attacks, libraries=libraries)
    message = str(caught.value)
    assert "\n" not in message
    return message


def runs(word: str) -> bool:
    """Tell whether ``--attacks word`` is an attack that there is."""
    named = parse_named(word)
    if named is None:
        return word in ATTACKS.names()
    try:
        attack_class(named.cls, named.library)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize(
    ("asked", "hints"),
    [
        ("autoattack", ["art:AutoAttack", "torchattacks:AutoAttack"]),
        ("Auto-Attack", ["art:AutoAttack", "torchattacks:AutoAttack"]),
        ("AA", ["art:AutoAttack", "torchattacks:AutoAttack"]),
        ("apgd_l2", ["apgd-l2"]),
        ("apgd-ce", ["apgd"]),
        ("apgd-targeted", ["apgd-t"]),
        ("sigmazero", ["sigma-zero"]),
        ("fab", ["torchattacks:FAB"]),
        ("squared", ["square"]),
        ("deepfool", ["art:DeepFool", "torchattacks:DeepFool"]),
        ("bim", ["torchattacks:BIM"]),
        ("mim", ["torchattacks:MIFGSM"]),
        ("hopskipjump", ["art:HopSkipJump"]),
        ("boundary", ["art:BoundaryAttack"]),
        ("deepfol", ["art:DeepFool", "torchattacks:DeepFool"]),
        ("pgd_l2", ["pgd-l2"]),
        ("pgd-linf", ["pgd"]),
        ("carlini-wagner", ["cw"]),
    ],
)
def test_what_exists_is_suggested(asked: str, hints: list[str]) -> None:
    hints = [hint for hint in hints if runs(hint)]
    assert nearest_attacks(asked)[: len(hints)] == hints
    said = refused(asked)
    assert f"unknown attack {asked!r}; did you mean {hints[0]!r}" in said
    assert all(hint in said for hint in hints)


def test_nothing_near_is_no_suggestion() -> None:
    assert nearest_attacks("xylophone") == []
    said = refused("xylophone")
    assert "did you mean" not in said
    assert "Known: alma, apgd," in said
    assert "cw, cw-bpda, ddn, fgsm," in said


def test_every_suggestion_is_there() -> None:
    for asked in (*ALIASES, "a", "attack", "gradient", "patch", ""):
        assert all(runs(hint) for hint in nearest_attacks(asked))


def test_what_a_library_cannot_run_here_is_not_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise UsageError(f"{name} needs a package")

    art = replace(LIBRARIES.load("art"), named=refuse)
    monkeypatch.setattr("benchmark.attacks.peers.art.LIBRARY", art)
    assert nearest_attacks("deepfool") == ["torchattacks:DeepFool"]
    assert nearest_attacks("hopskipjump") == []


def test_every_other_name_leads_somewhere() -> None:
    assert all(nearest_attacks(alias) for alias in ALIASES)


def test_a_variant_of_the_preset_is_suggested() -> None:
    assert "did you mean 'pgd-bpda'?" in refused("pgdbpda")


def test_an_attack_in_a_librarys_place_is_told_where_it_belongs() -> None:
    words = [word for word in ("art:AutoAttack", "torchattacks:AutoAttack") if runs(word)]
    expected = f"did you mean --attacks {' or '.join(words)}?"
    assert expected in refused("pgd", libraries=("autoattack",))
    assert expected in refused("autoattack:AutoAttack")
    assert expected in refused("autoattack:AutoAttack(version='standard')")
    assert "did you mean 'torchattacks'?" in refused("torchatacks:PGD")
    assert "did you mean --attacks art:DeepFool or" in refused("robust_zoo:DeepFool")
    assert "did you mean" not in refused("pgd", libraries=("xylophone",))
    assert "did you mean" not in str(unknown_library("xylophone"))


def test_what_a_library_lists_it_has() -> None:
    for name in LIBRARIES.names():
        library = LIBRARIES.load(name)
        if library.available:
            assert (library.classes is None) == (library.named is None)
            for cls in library.classes() if library.classes else ():
                if runs(f"{name}:{cls}"):
                    assert library.attack(cls).__name__ == cls
