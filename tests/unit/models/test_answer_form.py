"""Models that answer in another form than float32 logits: how an attack sees them."""

import pytest
import torch
from maskings import Around, OneHot, Probabilities
from torch import Tensor, nn
from torch.nn import functional as F
from toys import Function, dataset, images

from benchmark.attacks.cw import CarliniWagner
from benchmark.attacks.loader import attack_class
from benchmark.attacks.losses import cross_entropy
from benchmark.attacks.pgd import PGD, PGDL2
from benchmark.attacks.view import attack_view
from benchmark.audit.auto_bpda import Bridged, find_bridge
from benchmark.audit.surrogates import Restored, Unsquashed
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.evaluation.sweep import sweep
from benchmark.models.answer_form import LOGITS, AnswerForm, form_of
from benchmark.models.contract import check_answers, get_ready
from benchmark.models.defense import Defense
from benchmark.progress import Progress
from benchmark.seeding import seeded

X = images(24)


class Net(Defense):
    """Two classes from a smooth network on 8x8 images; ``after`` changes its logits."""

    def __init__(self, after=lambda logits: logits):
        data = dataset(X, torch.zeros(len(X), dtype=torch.long), 3)
        super().__init__(data.info)
        self.after = after
        with seeded(0):
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(x))


def hot(logits: Tensor) -> Tensor:
    return F.one_hot(logits.argmax(1), logits.shape[1])


FORMS = {
    "float32": (lambda logits: logits, AnswerForm()),
    "half": (Tensor.half, AnswerForm("logits", torch.float16)),
    "bfloat16": (Tensor.bfloat16, AnswerForm("logits", torch.bfloat16)),
    "double": (Tensor.double, AnswerForm("logits", torch.float64)),
    "softmax": (lambda logits: logits.softmax(1), AnswerForm("probabilities")),
    "sharp": (lambda logits: (20 * logits).softmax(1), AnswerForm("probabilities")),
    "half softmax": (
        lambda logits: logits.softmax(1).half(),
        AnswerForm("probabilities", torch.float16),
    ),
    "bfloat16 softmax": (
        lambda logits: logits.softmax(1).bfloat16(),
        AnswerForm("probabilities", torch.bfloat16),
    ),
    "log": (lambda logits: logits.log_softmax(1), AnswerForm()),
    "sigmoid": (Tensor.sigmoid, AnswerForm()),
    "whole numbers": (hot, AnswerForm("labels", torch.int64, slope=False)),
    "one-hot": (lambda logits: hot(logits).float(), AnswerForm("labels", slope=False)),
    "straight through": (
        lambda logits: hot(logits) + logits.softmax(1) - logits.softmax(1).detach(),
        AnswerForm("labels"),
    ),
}


def ready(after):
    model = Net(after)
    data = dataset(X, Net().predict(X), 3)
    check_answers(model, data, 0)
    return model, data


@pytest.mark.parametrize(("after", "form"), FORMS.values(), ids=FORMS)
def test_the_form_is_found_and_the_model_attacked(after, form):
    model, data = ready(after)
    assert model.answer_form == form
    spec = AttackSpec("pgd", ThreatModel("linf", (0.0, 0.02, 0.3)), len(X), params={})
    outcomes = list(
        sweep(model, PGD(steps=10), spec, data, seed_at=lambda eps: 1, progress=Progress())
    )
    for outcome in outcomes:
        assert (outcome.notes == form.note) or form.note in outcome.notes
    fooled = [int(outcome.success.sum()) for outcome in outcomes]
    if form.slope:
        assert fooled[-1] > len(X) / 2
    assert fooled[0] == 0


def test_probabilities_are_attacked_as_their_logits_are():
    model, data = ready(lambda logits: (20 * logits).softmax(1))
    plain = Net(lambda logits: 20 * logits)
    x, y = data.x(), data.labels
    with attack_view(model, len(x)) as view, attack_view(plain, len(x)) as other:
        _, logits, gradient = view.gradient(x, y, cross_entropy)
        _, wanted, same = other.gradient(x, y, cross_entropy)
    assert torch.allclose(logits, wanted.log_softmax(1), atol=1e-4)
    assert torch.allclose(gradient, same, atol=1e-4 * float(same.abs().max()))
    model.answer_form = LOGITS
    with attack_view(model, len(x)) as view:
        assert not torch.allclose(view.gradient(x, y, cross_entropy)[2], same, atol=1e-2)


def test_a_probability_of_zero_stays_finite():
    form = AnswerForm("probabilities")
    answer = torch.tensor([[1.0, 0.0]], requires_grad=True)
    logits = form.logits(answer, X[:1])
    (slope,) = torch.autograd.grad(logits.sum(), answer)
    assert logits.isfinite().all()
    assert slope.isfinite().all()
    assert form.logits(answer.half(), X[:1]).dtype == torch.float32


@pytest.mark.parametrize(
    "attack",
    [
        PGD(steps=5),
        PGDL2(steps=5),
        CarliniWagner(steps=5, search_steps=2),
        *(
            attack_class(name, library)(**settings)
            for library, name, settings in (
                ("torchattacks", "pgd", {"steps": 3}),
                ("torchattacks", "cw", {"steps": 3}),
                ("torchattacks", "Square", {"n_queries": 20}),
                ("art", "pgd", {"steps": 3}),
                ("art", "HopSkipJump", {"max_iter": 1, "max_eval": 20, "init_eval": 10}),
            )
        ),
    ],
    ids=lambda attack: f"{attack.library}-{type(attack).__name__}",
)
def test_every_attack_runs_on_labels_without_a_gradient(attack):
    model, data = ready(hot)
    spec = AttackSpec("it", ThreatModel(attack.norm, (0.0, 0.5)), len(X), params={})
    outcomes = list(sweep(model, attack, spec, data, seed_at=lambda eps: 1, progress=Progress()))
    assert all("there is no gradient to follow" in outcome.notes for outcome in outcomes)


def test_answers_only_break_a_model_of_labels():
    model, data = ready(hot)
    attack = attack_class("HopSkipJump", "art")(max_iter=2, max_eval=100, init_eval=20)
    spec = AttackSpec("it", ThreatModel("l2", (0.0, 8.0)), len(X), params={})
    *_, last = sweep(model, attack, spec, data, seed_at=lambda eps: 1, progress=Progress())
    assert last.success.double().mean() > 0.9


def test_the_audits_stand_ins_pass_the_form_on():
    bare = Net()
    data = dataset(X, bare.predict(X), 3)
    model = Probabilities(bare)
    get_ready(model, data, 0)
    assert model.answer_form == AnswerForm("probabilities")
    assert Restored(model).answer_form == model.answer_form
    assert Unsquashed(model).answer_form == LOGITS
    labels = OneHot(bare)
    get_ready(labels, data, 0)
    assert labels.answer_form == AnswerForm("labels", slope=False)
    with torch.no_grad():
        bridge = find_bridge(labels, X[:8])
    assert bridge is not None
    assert Bridged(labels, bridge).answer_form == LOGITS


def test_what_raises_is_left_to_whoever_attacks():
    def broken(x):
        raise RuntimeError("no")

    model = Function(broken)
    get_ready(model, dataset(X, torch.zeros(len(X), dtype=torch.long)), 0)
    assert model.answer_form == LOGITS


def test_nothing_to_say_of_float32_logits():
    assert LOGITS.note == ""
    answer = torch.rand(3, 2, requires_grad=True)
    assert LOGITS.logits(answer, X[:3]) is answer
    assert form_of(answer, slope=True) == LOGITS
    assert isinstance(Around(Net()), Defense)
