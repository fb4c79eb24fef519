"""Budgets and attacks where the user leaves them open."""

import pytest

from benchmark.errors import UsageError
from benchmark.given.settings import HOP_SKIP_JUMP, attacks_of, budgets, own_settings

GREY, SMALL, LARGE = (1, 28, 28), (3, 32, 32), (3, 224, 224)


@pytest.mark.parametrize(
    ("eps", "expected"),
    [
        (0.4, (0, 0.1, 0.2, 0.3, 0.4)),
        ("8/255", tuple(i * 2 / 255 for i in range(5))),
        ("0.1,0.2", (0, 0.1, 0.2)),
        ([0.2, 0.1, 0.2], (0, 0.1, 0.2)),
        ((0.5,), (0, 0.5)),
    ],
)
def test_a_number_stands_for_its_quarters_and_a_list_for_itself(eps, expected):
    assert budgets(eps, "linf", SMALL) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("norm", "shape", "largest"),
    [
        ("linf", GREY, 0.3),
        ("linf", SMALL, 8 / 255),
        ("linf", LARGE, 4 / 255),
        ("l2", GREY, 2),
        ("l2", SMALL, 0.5),
        ("l2", LARGE, 3),
        ("l1", SMALL, 12),
        ("l0", GREY, 24),
    ],
)
def test_by_default_it_is_what_the_field_reports(norm, shape, largest):
    assert budgets(None, norm, shape)[-1] == pytest.approx(largest)


def of(asked, gives="gradients", norm="linf"):
    options = {"eps": (0.0, 0.1), "n": 7, "settings": own_settings()}
    found = attacks_of(asked, norm=norm, gives=gives, **options)
    assert all(attack.n == 7 and attack.threat.eps == (0.0, 0.1) for attack in found)
    return [f"{a.library}:{a.name}" if a.library != "inhouse" else a.name for a in found]


def test_standard_is_what_the_model_allows():
    assert of("standard") == ["standard"]
    assert of("standard", "scores") == ["standard", "square"]
    assert of("standard", "labels", "l2") == ["standard-l2", named(HOP_SKIP_JUMP["l2"])]
    assert of("standard", norm="l1") == ["standard-l1"]
    assert of("fgsm,standard,pgd") == ["fgsm", "standard", "pgd"]
    with pytest.raises(UsageError, match="no attack in l1 makes do"):
        of("standard", "scores", "l1")


def named(word):
    return word.replace(",", ", ").replace("  ", " ")


def test_another_norm_is_refused():
    with pytest.raises(UsageError, match="one in l2"):
        of(["pgd", "pgd-l2"])
