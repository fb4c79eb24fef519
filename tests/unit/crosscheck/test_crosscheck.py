"""The cross-check: its numbers against closed forms, its findings against attacks with faults."""

import math
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from crosscheck_sentences import DATA, check, grey, sentences
from toys import Function, Linear, Nearest, Scripted, dataset, images, pixels

from benchmark.attacks.base import BudgetAttack
from benchmark.attacks.pgd import PGD
from benchmark.attacks.view import attack_view
from benchmark.crosscheck.recorder import Recorder, RecordingView
from benchmark.crosscheck.results import (
    check_table,
    optimality,
    quantiles,
    read_crosscheck,
)
from benchmark.results import ResultsError

INF = math.inf


def test_optimality_has_a_closed_form() -> None:
    # e0 = 4; best: (4-1) + (4-2) + 0 = 5; the attack: (4-2) + 0 + 0 = 2; clean errors drop out.
    best = [0.0, 1.0, 2.0, 4.0]
    assert optimality([0.0, 2.0, INF, 4.0], best) == pytest.approx(2 / 5)
    assert optimality(best, best) == 1
    assert optimality([0.0, INF, INF, INF], best) == 0
    # An image that nobody solved is nobody's fault.
    assert optimality([2.0, INF, INF], [1.0, 3.0, INF]) == pytest.approx(1 / 2)


def test_optimality_is_the_ratio_of_the_areas() -> None:
    best = torch.rand(50, generator=torch.Generator().manual_seed(0)).double() + 0.1
    own = best * (1 + torch.arange(50) % 3)
    grid = torch.linspace(0, float(best.max()), 200_001, dtype=torch.float64)

    def area(distances):
        fell = torch.searchsorted(distances.sort().values, grid, right=True)
        return float(torch.trapezoid(fell.double() / len(distances), grid))

    expected = area(own) / area(best)
    assert optimality(own.tolist(), best.tolist()) == pytest.approx(expected, abs=1e-4)


def test_optimality_at_one_budget_is_the_share_of_what_was_solvable() -> None:
    assert optimality([0.1, INF, INF, 0.0], [0.1, 0.1, INF, 0.0]) == 0.5
    assert math.isnan(optimality([INF, INF], [INF, INF]))
    assert math.isnan(optimality([], []))


def test_quantiles_count_failures_as_infinite() -> None:
    found = quantiles([4.0, 1.0, 3.0, INF])
    assert found["median_distance"] == 3
    assert found["distance_q05"] == 1
    assert found["distance_q95"] == INF
    assert math.isnan(quantiles([])["median_distance"])


def toward(x, y, by):
    """The strongest l-inf attack on MODEL: all pixels towards the other side."""
    return (x + by * (1 - 2 * y.view(-1, 1, 1, 1))).clamp(0, 1)


def honest(view, x, y, eps):
    view.gradient(x, y, lambda logits, _: logits[:, 1])
    x_adv = toward(x, y, eps)
    view.logits(x_adv)
    return x_adv


HONEST = Scripted(script=honest)


def test_agreement_and_identity_are_counted_image_by_image() -> None:
    def two_only(view, x, y, eps):
        x_adv = honest(view, x, y, eps)
        x_adv[2:] = x[2:]
        return x_adv

    found = check({"a": HONEST, "b": HONEST, "c": Scripted(script=two_only)})
    summary = found.summary()
    # 0.9 withstands everybody; c gives up on two of the four others.
    assert summary["agreement"] == {"a|b": 1.0, "a|c": 0.6, "b|c": 0.6}
    assert summary["bit_identical"] == {"a|b": 1.0, "a|c": 0.4, "b|c": 0.4}
    success = {row["library"]: row["success"] for row in summary["libraries"]}
    assert success == {"a": 0.8, "b": 0.8, "c": 0.4}
    assert {row["optimality"] for row in summary["libraries"]} == {1.0, 0.5}
    # The worst images are those on which c alone failed.
    assert [o.sample_id for o in found.offenders] == [102, 103]
    samples = found.tables["samples"]
    assert len(samples) == 3 * 5
    same = samples.groupby("sample_id")["image_digest"].nunique()
    assert same.tolist() == [1, 1, 2, 2, 2]


def test_clean_errors_are_nobodys_work() -> None:
    wrong = dataset(DATA.x(), 1 - DATA.labels)
    summary = check({"a": HONEST, "b": HONEST}, data=wrong).summary()
    assert summary["agreement"] == {"a|b": 1.0}
    assert summary["bit_identical"] == {"a|b": None}
    assert [row["success"] for row in summary["libraries"]] == [1.0, 1.0]
    assert [row["forwards"] for row in summary["libraries"]] == [0.0, 0.0]
    assert [row["optimality"] for row in summary["libraries"]] == [None, None]


def test_budgets_are_searched_one_by_one_and_the_smallest_counts() -> None:
    found = check({"a": HONEST, "b": HONEST}, eps=(0.0, 0.07, 0.12, 0.3))
    table = found.tables["success"].set_index(["library", "eps"])["success"]
    assert table["a"].tolist() == [0.0, 0.4, 0.6, 0.8]
    row = found.tables["libraries"].iloc[0]
    assert (row["distance_q25"], row["median_distance"]) == (0.07, 0.12)
    assert (row["forwards"], row["backwards"]) == (2, 1)  # per image and budget
    assert len(found.tables["pairs"]) == 3


def test_a_minimal_attack_runs_once_and_is_judged_at_every_eps() -> None:
    attack = Nearest()
    found = check({"a": attack, "b": Nearest()}, eps=(0.0, 0.15, 0.25))
    assert attack.calls == [5]
    table = found.tables["success"].set_index(["library", "eps"])["success"]
    assert table["a"].tolist() == [0.0, 0.4, 0.6]  # distances 0.1, 0.1, 0.2, 0.3 and 0.8
    assert found.tables["pairs"]["eps"].tolist() == [INF, 0.15, 0.25]
    assert found.summary()["libraries"][0]["median_distance"] == pytest.approx(0.2, rel=0.02)


def test_a_library_that_raises_is_a_failed_row_with_its_message() -> None:
    def breaks(view, x, y, eps):
        if eps > 0.2:
            raise RuntimeError("out of cheese")
        return x

    found = check({"a": HONEST, "b": Scripted(script=breaks)}, eps=(0.1, 0.3))
    table = found.tables["libraries"].set_index("library")
    assert table["status"].to_dict() == {"a": "ok", "b": "failed"}
    assert table.loc["b", "reason"] == "RuntimeError: out of cheese"
    assert math.isnan(table.loc["b", "success"])
    assert "Traceback" in found.failures["b"][1]
    assert set(found.tables["samples"]["library"]) == {"a"}
    assert found.tables["pairs"].empty
    assert found.summary()["libraries"][1]["findings"] == ["failed: RuntimeError: out of cheese"]
    assert found.summary()["libraries"][1]["success"] is None


def last(view, x, y, eps):
    """Tries the adversarial image, then goes back."""
    honest(view, x, y, eps)
    weak = toward(x, y, 0.01)
    view.logits(weak)
    return weak


def anything(view, x, y, eps):
    honest(view, x, y, eps)
    view.logits(x)
    return toward(x, y, 0.02)


def leaves_ball(view, x, y, eps):
    return toward(x, y, eps + 0.15)


def leaves_box(view, x, y, eps):
    return x - eps - 0.25


def nan(view, x, y, eps):
    return x * torch.nan


def starts_elsewhere(view, x, y, eps):
    view.gradient(x + eps / 2, y, lambda logits, _: logits[:, 1])
    return honest(view, x, y, eps)


def gives_up(view, x, y, eps):
    x_adv = honest(view, x, y, eps)
    x_adv[0] = toward(x, y, 0.01)[0]
    return x_adv


FAULTS = {
    "returns its last iterate although an earlier one was adversarial: in 4 of 5": last,
    "does not return the best image that it tried: in 4 of 5": anything,
    "left the ball by up to 0.15 in 5 of 5": leaves_ball,
    "left the box [0, 1] by up to 0.2 in 4 of 5": leaves_box,
    "NaN or infinity for 5 of 5": nan,
    "random start, or at least did not start at the image: in 5 of 5": starts_elsewhere,
    "its first gradient was taken up to 0.15 away": starts_elsewhere,
    "gave up on 1 of 5 attempts (an image at an eps) that another library solved": gives_up,
    "returned the clean image for 5 of 5": lambda view, x, y, eps: x.clone(),
    "blank image, all pixels equal, for 5 of 5": lambda view, x, y, eps: 0 * x,
}


@pytest.mark.parametrize(("words", "script"), FAULTS.items(), ids=range(len(FAULTS)))
def test_a_fault_is_found(words, script) -> None:
    data = DATA
    if "blank" in words:
        ramp = torch.tensor([0.0, 0.1, -0.1, 0.0]).view(1, 1, 2, 2)
        data = dataset(DATA.x() + ramp, DATA.labels)
    assert words in sentences({"it": Scripted(script=script), "other": HONEST}, data=data)


def test_an_attack_without_faults_has_no_findings() -> None:
    assert sentences({"it": HONEST, "other": Scripted(script=gives_up)}) == ""
    pgd = PGD(steps=5, random_start=False, early_stop=False)
    assert sentences({"it": pgd, "other": HONEST}) == ""


def test_what_pgd_is_asked_for_is_what_is_measured() -> None:
    assert "used a random start" in sentences({"it": PGD(steps=5, early_stop=False)})
    stops = sentences({"it": PGD(steps=5, random_start=False)})
    assert "stopped early: in 4 of 5" in stops
    assert "fewer gradients than the 5" in stops


def test_more_gradients_than_asked() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Greedy(BudgetAttack):
        steps: int = 1

        def run(self, view, x, y, *, eps, generator):
            honest(view, x, y, eps)
            return honest(view, x, y, eps)

    assert "used more gradients than the 1 that were asked for in 5 of 5" in sentences(
        {"it": Greedy()}
    )


def test_pixels_that_stay_at_the_edge_of_the_box() -> None:
    x = images(6, (1, 2, 2), seed=3)
    data = dataset(x, (x.flatten(1).sum(1) > 2).long())

    def stuck(view, x, y, eps):
        edge = (x == 0) | (x == 1)
        return torch.where(edge, x, honest(view, x, y, eps))

    def probes_all(view, x, y, eps):
        view.logits(toward(x, y, -eps))
        return honest(view, x, y, eps)

    def stuck_queries(view, x, y, eps):
        edge = (x == 0) | (x == 1)
        return torch.where(edge, x, toward(x, y, eps))

    free = Scripted(script=probes_all)
    found = sentences({"it": Scripted(script=stuck_queries), "free": free}, data=data)
    assert "does not move pixels at the box's edge" in found
    assert "it ever moved 0.0 %" in found
    assert "free moves 100.0 % of them" in found
    # Returned as they were, but tried elsewhere: not stuck.
    assert "edge" not in sentences({"it": Scripted(script=stuck)}, data=data)
    assert "edge" not in sentences({"it": free}, data=data)


def test_a_minimal_attack_that_returns_a_farther_image_than_it_tried() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Far(Nearest):
        def run(self, view, x, y, *, generator):
            near = super().run(view, x, y, generator=generator)
            view.logits(near)
            return x + 2 * (near - x)

    found = sentences({"it": Far(), "other": Nearest()})
    assert "farther image than the nearest adversarial one that it queried for 5 of 5" in found
    assert "median ratio 2)" in found
    assert "needs 2 times the distance of the best library" in found
    assert sentences({"it": Nearest(), "other": Far()}) == ""


def test_a_blank_image_that_happens_to_fool_is_not_what_an_attack_found() -> None:
    ramp = torch.tensor([0.0, 0.1, -0.1, 0.0]).view(1, 1, 2, 2)
    data = grey(0.55, 0.6)
    data = dataset(data.x() + ramp, data.labels)

    def gives_blank(view, x, y, eps):
        view.logits(0 * x)  # within the ball of radius 1, and label 0
        return x.clone()

    found = sentences({"it": Scripted(script=gives_blank)}, data=data, eps=(1.0,))
    assert "returned the clean image for 2 of 2" in found
    assert "tried" not in found
    assert "iterate" not in found


def test_one_draw_of_a_stochastic_defense_is_no_evidence() -> None:
    class Coin(Linear):
        stochastic = True

    model = Coin(torch.ones(4), b=-2.0)
    assert "iterate" not in sentences({"it": Scripted(script=last)}, model=model)


def test_queries_of_parts_and_of_unknown_rows_find_their_images() -> None:
    model = Function(lambda x: torch.cat([0 * x.flatten(1), x.flatten(1) - 0.5], 1))
    x, y = pixels(0.1, 0.45, 0.9), torch.tensor([0, 0, 1])
    recorder = Recorder(x, y, eps=0.2, norm="linf")
    with attack_view(model, 3):
        view = RecordingView(model, recorder)
        part = view.select(torch.tensor([1, 2])).select(torch.tensor([0]))
        part.logits(pixels(0.6))
        assert recorder.fooled.tolist() == [False, True, False]
        assert recorder.nearest.tolist()[1] == pytest.approx(0.15)
        view.logits(pixels(0.92, 0.12))  # two of three: nearest images
        assert recorder.reach.flatten().tolist() == pytest.approx([0.02, 0.15, 0.02], abs=1e-6)
        view.logits(pixels(0.28))  # halfway between two: nobody's
        assert recorder.missed == 1
        view.gradient(x, y, lambda logits, _: logits[:, 1])
        assert recorder.start.tolist() == [0, 0, 0]
        assert view.counts()[1].tolist() == [1, 1, 1]


def test_a_damaged_folder_says_so(tmp_path) -> None:
    with pytest.raises(ResultsError, match=r"no crosscheck\.json"):
        read_crosscheck(tmp_path)
    (tmp_path / "crosscheck.json").write_text("{}")
    with pytest.raises(ResultsError, match="not a cross-check's record"):
        read_crosscheck(tmp_path)
    frame = pd.DataFrame({"library": ["a"]})
    with pytest.raises(ResultsError, match="column 'eps' is missing"):
        check_table(frame, "success", "here")
    row = {"library": "a", "eps": 0.1, "n": 1, "success": 1.5, "ci_low": 0.0, "ci_high": 1.0}
    with pytest.raises(ResultsError, match="success lies outside"):
        check_table(pd.DataFrame([row]), "success", "here")
