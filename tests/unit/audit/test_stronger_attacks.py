"""The stronger attack: what each finding brings about, surrogates for a gradient, and bridges."""

from dataclasses import replace

import pytest
import torch
from maskings import (
    Activated,
    Bare,
    BitDepth,
    Detached,
    Drifting,
    OneHot,
    Oscillating,
    Purified,
    Sealed,
    Stairs,
    TwoFaced,
    WrongSign,
)
from torch import nn
from toys import TOY, Function, Linear, dataset, pixels

from benchmark.attacks.loader import load_attack
from benchmark.attacks.losses import margin
from benchmark.attacks.norms import distance
from benchmark.attacks.pgd import PGD
from benchmark.attacks.view import attack_view
from benchmark.audit.attack_harder import attack_harder
from benchmark.audit.auto_bpda import Bridged, find_bridge, misleads
from benchmark.audit.budgets import shared, telling
from benchmark.audit.case import Case, Curve, Finding
from benchmark.audit.estimated_gradient import EvolutionStrategies
from benchmark.audit.smoothed_gradient import SmoothedGradient
from benchmark.audit.stronger_attacks import Effort, plan_attacks
from benchmark.audit.surrogates import Around, Restored, Unsquashed
from benchmark.audit.targeted_pgd import TargetedPGD
from benchmark.config.threat import ThreatModel
from benchmark.datasets import DatasetInfo
from benchmark.progress import Progress
from benchmark.seeding import generator, seeded

EFFORT = Effort(steps=5, restarts=1, queries=10, probes=2, eot=3, levels=2)
THREAT = ThreatModel("linf", (0.0, 0.1, 0.2, 0.3))
SMALL = DatasetInfo("toy", (1, 8, 8), 4, tuple("abcd"), augment=False)


def bare(seed=0) -> Bare:
    with seeded(seed):
        return Bare(SMALL).eval().requires_grad_(False)


def images(n=6):
    return torch.rand(n, 1, 8, 8, generator=generator(1)) * 0.8 + 0.1


def case(defense, x=None, **options) -> Case:
    x = images() if x is None else x
    y = defense.predict(x)
    return Case(defense, "toy", 0, x, y, torch.ones(len(x), dtype=torch.bool), x.byte(), **options)


def alarms(*checks):
    return [Finding(check, "alarm", 1.0, 0.0, "measured", check) for check in checks]


def planned(defense, *checks, threat=THREAT, **options):
    found = plan_attacks(case(defense, **options), threat, alarms(*checks), n=6, effort=EFFORT)
    return {each.spec.name.removeprefix("audit-"): each for each in found}


def gradient(defense, x):
    with attack_view(defense, len(x)) as view:
        return view.gradient(x, defense.predict(x), margin)[2]


# --- the plan ------------------------------------------------------------------------------------


ALWAYS = ["margin", "cross-entropy", "apgd", "targeted", "averaged-once", "square"]


def test_without_an_alarm_six_attacks_run():
    plan = planned(bare())
    assert list(plan) == ALWAYS
    assert plan["margin"].spec.params == {"loss": "margin", "steps": 5, "restarts": 1}
    assert plan["margin"].spec.threat == THREAT
    assert plan["apgd"].spec.params["loss"] == "dlr"
    assert plan["targeted"].spec.params == {"steps": 10, "n_classes": 4}
    assert plan["averaged-once"].spec.threat.eps == (0.1,)
    assert plan["averaged-once"].then.spec.threat.eps == (0.1, 0.3)
    assert {each.spec.eot for each in plan.values()} == {1}


def test_below_four_classes_apgd_has_no_third_logit():
    plan = planned(Linear(torch.ones(4)), x=torch.rand(6, 1, 2, 2))
    assert plan["apgd"].spec.params["loss"] == "ce"
    assert "targeted" not in plan  # there is one other class


def test_randomness_asks_for_draws_and_every_budget_from_scratch():
    plan = planned(bare(), "randomness")
    assert list(plan) == [name.removesuffix("-once") for name in ALWAYS]
    averaged = plan.pop("averaged").spec
    assert (averaged.eot, averaged.params["draws"]) == (1, 8)  # fresh draws with its own noise
    assert {each.spec.eot for each in plan.values()} == {3}
    assert all(each.defense.stochastic for each in plan.values())
    assert plan["margin"].spec.threat.eps == (0.1, 0.3)


def test_a_doubtful_gradient_is_replaced():
    plan = planned(BitDepth(bare()), "zero-gradient")
    first, *_, last = plan
    assert (first, last) == ("bridge", "estimated")
    assert isinstance(plan["bridge"].defense, Bridged)
    assert "averaged-once" in plan  # the mean of zeros is zero
    assert not plan["estimated"].spec.bpda


def test_an_own_surrogate_is_used_unless_the_run_did():
    class Own(BitDepth):
        def surrogate(self, x):
            return self.bare(x)

    assert planned(Own(bare()), "zero-gradient")["bpda"].spec.bpda
    assert "bpda" not in planned(Own(bare()), "zero-gradient", bpda=True)


def test_where_no_gradient_is_there_none_is_followed():
    plan = planned(Detached(bare()), "missing-gradient")
    assert list(plan) == ["bridge", "square", "estimated"]


def test_what_depends_on_the_batch_is_attacked_as_a_batch():
    params = planned(bare(), "batch-dependence")["margin"].spec.params
    assert (params["early_stop"], params["return_last"]) == (False, True)


def test_probabilities_are_unsquashed_and_changing_weights_restored():
    assert isinstance(planned(bare(), "probability-outputs")["logarithms"].defense, Unsquashed)
    assert isinstance(planned(bare(), "state-changes")["margin"].defense, Restored)


def test_the_effort_follows_the_passes():
    efforts = [Effort.of(passes) for passes in (1, 500, 5000)]
    assert [effort.steps for effort in efforts] == [10, 30, 100]
    assert [effort.queries for effort in efforts] == [50, 150, 500]


@pytest.mark.parametrize(
    ("passes", "draws", "steps", "restarts", "eot"),
    [
        (1, 1, 10, 1, 1),  # what the run averaged stays, and ten steps
        (1, 10, 10, 1, 10),
        (320, 1, 19, 1, 1),
        (660, 1, 10, 1, 4),
        (2000, 10, 12, 1, 10),
        (6000, 10, 27, 2, 10),
        (10**6, 20, 100, 2, 20),
    ],
)
def test_the_effort_on_noise_gives_up_restarts_and_draws_first(passes, draws, steps, restarts, eot):
    effort = Effort.of_stochastic(passes, draws=draws)
    assert (effort.steps, effort.restarts, effort.eot) == (steps, restarts, eot)


@pytest.mark.parametrize("effort", [Effort.of(1), Effort.of_stochastic(1, draws=1)])
def test_the_least_effort_makes_attacks(effort):
    for norm in ("linf", "l2"):
        asked = case(bare())
        for each in plan_attacks(asked, ThreatModel(norm, (0.1,)), [], n=6, effort=effort):
            load_attack(each.spec)


@pytest.mark.parametrize(
    ("left", "wanted"),
    [
        ([1.0, 0.9, 0.5, 0.2, 0.0], (0.2, 0.4)),  # half stands at 0.2
        ([1.0, 1.0, 1.0, 1.0, 1.0], (0.2, 0.4)),  # nothing falls: spread
        ([1.0, 0.4, 0.1, 0.0, 0.0], (0.1, 0.4)),
    ],
)
def test_the_telling_budgets_are_the_middle_and_the_end(left, wanted):
    eps = (0.0, 0.1, 0.2, 0.3, 0.4)
    success = torch.arange(10) >= 10 * torch.tensor(left)[:, None]
    curve = Curve("pgd", "inhouse", "linf", eps, success, torch.zeros(5, 10))
    assert telling([curve], ThreatModel("linf", eps), 2).eps == wanted


def test_noise_is_judged_where_every_attack_of_the_run_was():
    """At other budgets a sweep with EOT says nothing, and the plain one alone would be weak."""

    def curve(norm, *eps):
        return Curve("", "inhouse", norm, eps, *torch.zeros(2, len(eps), 3))

    threat = ThreatModel("linf", (0.0, 0.1, 0.2, 0.3))
    fine, coarse = curve("linf", 0.0, 0.1, 0.2, 0.3), curve("linf", 0.0, 0.2)
    assert shared([fine, coarse, curve("l2", 1.0)], threat).eps == (0.2,)
    assert shared([coarse, curve("linf", 0.1)], threat) == threat
    assert shared([], threat).eps == (0.1, 0.2, 0.3)

    plan = planned(bare(), "randomness", threat=threat, curves=[fine, coarse])
    assert {each.spec.threat.eps for each in plan.values()} == {(0.2,)}


# --- attacks -------------------------------------------------------------------------------------


def test_strikes_are_judged_counted_and_the_same_every_time():
    defense = Linear(torch.ones(1), -0.5)
    data = dataset(pixels(0.55, 0.9, 0.25), torch.tensor([1, 1, 0]))
    asked = case(defense, data.x())
    runs = [
        list(attack_harder(asked, data, THREAT, [], effort=EFFORT, progress=Progress()))
        for _ in range(2)
    ]
    by_name = {result.spec.name: result for result in runs[0]}
    assert by_name["audit-margin"].curve.success.tolist() == [
        [False, False, False],
        [True, False, False],
        [True, False, False],
        [True, False, True],
    ]
    assert by_name["audit-margin"].curve.library == "audit"
    assert by_name["audit-margin"].passes > 0
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one.curve.distance, other.curve.distance)


def test_an_attack_that_raises_is_told_and_the_next_runs():
    class Broken(Linear):
        def forward(self, x):
            if torch.is_grad_enabled():
                raise RuntimeError("no graph here\nat all")
            return super().forward(x)

    defense = Around(Broken(torch.ones(1), -0.5), differentiable=False)
    data = dataset(pixels(0.55), torch.tensor([1]))
    found = list(
        attack_harder(case(defense, data.x()), data, THREAT, [], effort=EFFORT, progress=Progress())
    )
    assert {result.spec.name for result in found} == {"audit-square"}
    defense = Around(defense.defense, differentiable=True)
    found = attack_harder(
        case(defense, data.x()), data, THREAT, [], effort=EFFORT, progress=Progress()
    )
    first = next(found)
    assert (first.outcomes, first.failure) == ((), "RuntimeError: no graph here")
    assert next(found).spec.name == "audit-cross-entropy"


def test_what_fell_is_not_attacked_again():
    """And what an attack leaves is what it and those before it leave."""
    data = dataset(pixels(0.55, 0.9, 0.25), torch.tensor([1, 1, 0]))
    asked = case(Linear(torch.ones(1), -0.5), data.x())
    found = list(attack_harder(asked, data, THREAT, [], effort=EFFORT, progress=Progress()))
    first, *rest = found
    assert first.fooled == 2
    for result in rest:
        assert result.fooled == 0
        queries = torch.stack([o.n_forward + o.n_backward for o in result.outcomes])
        assert not queries[:, 0].any()  # it fell at the smallest eps
        for outcome in result.outcomes:
            before = first.outcomes[THREAT.eps.index(outcome.eps)]
            assert torch.equal(outcome.success, before.success)
            assert torch.equal(outcome.pred_adv, before.pred_adv)
            assert not queries[:, before.success].any() or len(result.outcomes) > 1


def test_of_a_random_defense_every_attack_sees_every_image():
    data = dataset(pixels(0.55, 0.9, 0.25), torch.tensor([1, 1, 0]))
    asked = case(Linear(torch.ones(1), -0.5), data.x())
    found = attack_harder(
        asked, data, THREAT, alarms("randomness"), effort=EFFORT, progress=Progress()
    )
    for result in found:
        assert all((o.n_forward > 0).all() for o in result.outcomes)


def test_a_short_attack_that_turns_much_is_followed_by_the_long_one():
    """Waves that the checks were not asked about: the averaged gradient finds what they hide."""
    inner = bare()
    inner.network[5].weight.mul_(8)
    x = images(24)
    defense = Oscillating(inner, 0.004, 8.0, sealed=True)
    asked = case(defense, x)
    data = dataset(x, defense.predict(x), 4)
    threat = ThreatModel("linf", (0.02, 0.05, 0.1))
    effort = replace(EFFORT, steps=20, levels=3)
    found = {
        result.spec.name.removeprefix("audit-"): result
        for result in attack_harder(asked, data, threat, [], effort=effort, progress=Progress())
    }
    assert found["averaged-once"].fooled > 0.05 * len(x)
    assert found["averaged"].spec.threat.eps == threat.eps


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_gradient_averaged_over_noise_goes_across_waves(norm):
    w = torch.tensor([1.0, -1.0, 2.0, 0.5])
    line = Linear(w, -1.2)
    waves = Function(lambda x: line(x + 0.004 * torch.sin(2000 * x)))  # slopes of 8 on 1
    x = torch.full((8, 1, 2, 2), 0.5)
    y = waves.predict(x)
    eps = 0.06 if norm == "linf" else 0.12
    attack = SmoothedGradient(steps=10, draws=8, norm=norm)
    with attack_view(waves, len(x)) as view:
        x_adv = attack.run(view, x, y, eps=eps, generator=generator(0))
        forwards, backwards = view.counts()
    assert (waves.predict(x_adv) != y).all()
    assert (distance(x_adv, x, norm) <= eps + 1e-6).all()
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    assert backwards.max() <= 10 * 8
    assert forwards.max() <= 10 * 9 + 1


def test_one_class_is_aimed_at_after_the_other():
    """The second class is the one that can be reached; the first leads, and then falls back."""
    u = torch.eye(4)

    def logits(x):
        a, b = x.flatten(1) @ u[0], x.flatten(1) @ u[1]
        return torch.stack([0 * a + 0.5, torch.minimum(0.9 * a, 0.45 + 0 * a), b], 1)

    defense = Function(logits)
    x = torch.tensor([0.45, 0.42, 0.5, 0.5]).view(1, 1, 2, 2)
    y = defense.predict(x)
    with attack_view(defense, 1) as view:
        x_adv = TargetedPGD(steps=10).run(view, x, y, eps=0.1, generator=generator(0))
    assert defense.predict(x_adv).item() == 2
    assert ((x_adv - x).abs() <= 0.1 + 1e-6).all()


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (SmoothedGradient, {"draws": 0}),
        (SmoothedGradient, {"width": 0.0}),
        (SmoothedGradient, {"momentum": 1.0}),
        (TargetedPGD, {"targets": 0}),
    ],
)
def test_wrong_settings_of_the_audits_attacks_are_named(cls, options):
    with pytest.raises(ValueError, match="must be"):
        cls(**options)


# --- bridges -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [BitDepth, Detached, WrongSign, OneHot, Purified])
def test_across_a_bridge_the_inner_models_gradient_is_seen(cls):
    defense, x = cls(bare()), images()
    bridge = find_bridge(defense, x)
    assert bridge is not None
    seen, inner = gradient(Bridged(defense, bridge), x), gradient(defense.bare, x)
    alike = nn.functional.cosine_similarity(seen.flatten(1), inner.flatten(1))
    assert alike.median() > 0.9


def test_layers_that_work_in_place_are_watched_without_harm():
    inner, x = bare(), images()
    defense = BitDepth(Activated(inner, nn.ReLU(inplace=True)))
    bridge = find_bridge(defense, x)
    assert bridge is not None
    assert not bridge.broken
    seen, wanted = gradient(Bridged(defense, bridge), x), gradient(inner, x)
    alike = nn.functional.cosine_similarity(seen.flatten(1), wanted.flatten(1))
    assert alike.median() > 0.9


def test_a_bridge_leads_to_what_decides():
    defense, x = TwoFaced(bare()), images()
    bridge = find_bridge(defense, x)
    assert bridge is not None
    assert torch.equal(Bridged(defense, bridge)(x).argmax(1), defense.predict(x))


class StairsInPlace(nn.Module):
    def forward(self, x):
        return x.clamp_(min=0).mul_(3).round_().div_(3)


@pytest.mark.parametrize("stairs", [Stairs, StairsInPlace])
def test_stairs_are_bridged_by_their_slope_and_honest_layers_kept(stairs):
    inner, x = bare(), images()
    inner.network[0].weight.mul_(6)  # activations of several steps
    defense = Activated(inner, stairs())
    bridge = find_bridge(defense, x)
    assert bridge is not None
    assert {type(module) for module in bridge.broken} == {stairs}
    assert stairs.__name__ in str(bridge)
    assert all(width > 0 for width in bridge.broken.values())
    assert not gradient(defense, x).any()
    alike = nn.functional.cosine_similarity(
        gradient(Bridged(defense, bridge), x).flatten(1), gradient(defense.bare, x).flatten(1)
    )
    assert alike.median() > 0.7


def test_where_nothing_can_be_taken_apart_there_is_no_bridge():
    assert find_bridge(Sealed(bare()), images()) is None
    assert find_bridge(Function(lambda x: x.flatten(1)[:, :2]), torch.rand(2, 1, 2, 2)) is None


def test_the_hooks_are_gone_and_the_mode_is_as_before():
    defense, x = BitDepth(bare()), images()
    bridge = find_bridge(defense, x)
    Bridged(defense, bridge)(x.clone().requires_grad_())
    assert torch.is_grad_enabled()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in defense.modules())


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        (nn.ReLU(), False),
        (nn.Tanh(), False),
        (nn.BatchNorm2d(3).eval(), False),
        (nn.Identity(), False),
        (Stairs(), True),
    ],
)
def test_only_a_false_gradient_misleads(module, wanted):
    assert misleads(module, torch.randn(8, 3, 6, 6, generator=generator(0))) is wanted


# --- surrogates and estimates ---------------------------------------------------------------------


def test_a_restored_defense_answers_as_it_was_trained():
    defense, x = Drifting(bare()), images()
    restored = Restored(defense)
    answers = [restored(x) for _ in range(3)]
    assert torch.equal(answers[0], answers[2])
    assert int(defense.asked) == 1


def test_log_probabilities_have_a_gradient_where_float32_has_none():
    sharp = Function(lambda x: (x.flatten(1) * 300).softmax(1))
    x = torch.tensor([[[[0.9, 0.1], [0.2, 0.3]]]])
    assert not gradient(sharp, x).any()
    assert gradient(Unsquashed(sharp), x).any()


def test_estimates_climb_a_defense_that_shows_no_gradient():
    w = torch.tensor([1.0, -1.0, 2.0, 0.5])
    defense = Around(Linear(w, -1.2), differentiable=False)
    blind = Detached(defense)
    x = torch.full((8, 1, 2, 2), 0.5)
    y = defense.predict(x)
    attack = EvolutionStrategies(steps=10, probes=4)
    with attack_view(blind, len(x)) as view:
        x_adv = attack.run(view, x, y, eps=0.2, generator=generator(0))
        forwards, backwards = view.counts()
    assert (defense.predict(x_adv) != y).all()
    assert ((x_adv - x).abs() <= 0.2 + 1e-6).all()
    assert backwards.sum() == 0
    assert forwards.max() <= 10 * (2 * 4 + 1) + 1


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="sigma"):
        EvolutionStrategies(sigma=0.0)


def test_around_a_defense_everything_else_is_the_defenses():
    inner = Linear(torch.ones(4), -2)
    around = Around(inner, stochastic=True)
    assert (around.stochastic, inner.stochastic, Around.stochastic) == (True, False, False)
    x = torch.rand(3, 1, 2, 2)
    assert torch.equal(around(x), inner(x))
    assert torch.equal(around.surrogate(x), inner.surrogate(x))
    assert around.info is TOY
    assert PGD().norm == "linf"
