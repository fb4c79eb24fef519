"""Any trained model as a defense: what works, and the one line where something does not."""

import copy
from collections import OrderedDict
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.datasets.info import DatasetInfo
from benchmark.errors import UsageError
from benchmark.models.adapters import as_defense, fingerprint, left_alone
from benchmark.models.defense import Defense

FEW = torch.rand(4, 3, 6, 8, generator=torch.Generator().manual_seed(0))


def info(n_classes):
    names = tuple(map(str, range(n_classes)))
    return DatasetInfo("images", tuple(FEW.shape[1:]), n_classes, names, augment=False)


class Net(nn.Module):
    """Four classes; ``form`` wraps its logits."""

    def __init__(self, form=lambda logits: logits, n_classes=4):
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(3 * 6 * 8, n_classes)
        self.form = form

    def forward(self, x):
        return self.form(self.linear(x.flatten(1)))


class Output(OrderedDict):
    """Like Hugging Face's ModelOutput: a mapping whose items are attributes, too."""

    __getattr__ = OrderedDict.__getitem__


def adapt(model, few=FEW, **options):
    said = []
    found = as_defense(model, few, info=info, say=said.append, **options)
    return found, " | ".join(said)


LOGITS = Net()(FEW).detach()

SAME = {
    "plain": lambda: Net(),
    "sequential": lambda: nn.Sequential(Net()),
    "data parallel": lambda: nn.DataParallel(Net()),
    "compiled": lambda: torch.compile(Net()),
    "dict": lambda: Net(lambda z: {"loss": None, "logits": z}),
    "ModelOutput": lambda: Net(lambda z: Output(logits=z)),
    "attribute": lambda: Net(lambda z: SimpleNamespace(logits=z)),
    "tuple with an auxiliary head": lambda: Net(lambda z: (z, z[:, :2])),
    "pooled to 1 x 1": lambda: Net(lambda z: z[:, :, None, None]),
    "scripted": lambda: torch.jit.trace(Net().eval(), FEW),
    "double": lambda: Net().double(),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", SAME)
def test_a_module_answers_its_logits(name):
    defense, _ = adapt(SAME[name]())
    assert defense.info.n_classes == 4
    assert not defense.training
    assert defense.gives == "gradients"
    x = FEW.clone().requires_grad_()
    logits = defense(x)
    assert torch.allclose(logits.float(), LOGITS, atol=1e-5)
    (slope,) = torch.autograd.grad(logits.sum(), x)
    assert slope.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_is_cast_and_said(dtype):
    defense, said = adapt(Net().to(dtype))
    assert defense(FEW).dtype == torch.float32
    assert torch.allclose(defense(FEW), LOGITS, atol=0.05)
    assert str(dtype).removeprefix("torch.") in said


def test_what_is_unwrapped_is_said():
    assert "compiled" in adapt(torch.compile(Net()))[1]


def test_training_mode_is_said_and_restored():
    model = nn.Sequential(Net(), nn.Dropout(0.5))
    with left_alone(model):
        defense, said = adapt(model)
        assert "training mode" in said
        assert torch.equal(defense(FEW), defense(FEW))
    assert all(module.training for module in model.modules())


def test_it_normalises_as_told():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    defense, _ = adapt(Net(), mean=mean, std=std)
    by_hand = (FEW - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    assert torch.allclose(defense(FEW), Net()(by_hand), atol=1e-5)
    one, _ = adapt(Net(), mean=0.5, std=np.float64(0.5))
    assert torch.allclose(one(FEW), Net()(FEW * 2 - 1), atol=1e-5)


def test_a_binary_score_is_two_classes():
    defense, _ = adapt(Net(lambda z: z[:, 0], n_classes=1))
    assert defense.info.n_classes == 2
    column, _ = adapt(Net(n_classes=1))
    assert torch.equal(defense(FEW), column(FEW))
    assert torch.equal(column(FEW)[:, 0], torch.zeros(4))


def test_labels_and_scores_can_be_asked_for():
    by_type, _ = adapt(Net(lambda z: z.argmax(1)), n_classes=4)
    asked, _ = adapt(Net(), outputs="labels")
    for defense in (by_type, asked):
        assert defense.gives == "labels"
        assert not defense.differentiable
        assert torch.equal(defense(FEW), nn.functional.one_hot(LOGITS.argmax(1), 4).float())
    assert adapt(Net(), outputs="scores")[0].gives == "scores"


def test_probabilities_are_attacked_through_their_logarithm():
    defense, _ = adapt(Net(lambda z: z.softmax(1)), outputs="probabilities")
    assert defense.answer_form.kind == "probabilities"


def test_a_random_model_is_found():
    class Noisy(Net):
        def forward(self, x):
            return super().forward(x + 0.1 * torch.randn_like(x))

    defense, said = adapt(Noisy())
    assert defense.stochastic
    assert "differently twice" in said
    assert not adapt(Net())[0].stochastic


def scores(x):
    assert isinstance(x, np.ndarray)
    assert x.dtype == np.float32
    return Net()(torch.from_numpy(x)).detach().numpy()


class Sklearn:
    def predict_proba(self, x):
        return np.exp(scores(x)) / np.exp(scores(x)).sum(1, keepdims=True)

    def predict(self, x):
        return scores(x).argmax(1)


@pytest.mark.parametrize(
    ("model", "gives"),
    [
        (scores, "scores"),
        (partial(scores), "scores"),
        (lambda x: scores(x).tolist(), "scores"),
        (lambda x: scores(x).argmax(1), "labels"),
        (Sklearn(), "scores"),
    ],
    ids=["function", "partial", "lists", "labels", "scikit-learn"],
)
def test_a_function_only_answers(model, gives):
    defense, said = adapt(model, n_classes=4)
    assert defense.gives == gives
    assert not defense.differentiable
    assert torch.equal(defense(FEW).argmax(1), LOGITS.argmax(1))
    assert f"only {gives} can be had" in said


def test_a_function_of_tensors_is_given_tensors():
    def ask(x):
        return Net()(x.flatten(0, -1).view(x.size()))

    defense, said = adapt(ask)
    assert torch.allclose(defense(FEW), LOGITS, atol=1e-5)
    assert "given tensors" in said


def test_labels_take_the_number_of_classes_from_the_data():
    defense, said = adapt(lambda x: np.zeros(len(x), np.int64), n_labels=7)
    assert defense.info.n_classes == 7
    assert "7 classes, as the data show" in said


def test_a_defense_is_used_as_it_is():
    class Own(Defense):
        def forward(self, x):
            return Net()(x)

    own = Own(info(4))
    assert adapt(own)[0] is own
    with pytest.raises(UsageError, match="normalises its own input"):
        adapt(own, mean=0.5, std=0.5)
    with pytest.raises(UsageError, match="takes images of shape"):
        adapt(own, few=FEW[:, :, :5])


def nan(z):
    return z * float("nan")


WRONG = {
    "a class": (Net, {}, "Net is a class; hand over an instance"),
    "a word": ("resnet18", {}, "is a word; hand over the model itself"),
    "a state_dict": (Net().state_dict(), {}, "a state_dict holds weights alone"),
    "nothing": (None, {}, "NoneType is neither an nn.Module nor callable"),
    "no forward": (nn.ModuleList([Net()]), {}, "has no forward"),
    "a mapping without logits": (Net(lambda z: {"out": z}), {}, "mapping with out; .* logits"),
    "another type": (Net(lambda z: "cat"), {}, "returned a str"),
    "NaN": (Net(nan), {}, "NaN or infinity"),
    "rows": (Net(lambda z: z[:1]), {}, r"for 4 images; it must return logits of shape \(4, K\)"),
    "another size": (nn.Linear(5, 2), {}, r"failed on images of shape \(4, 3, 6, 8\)"),
    "meta": (nn.Linear(5, 2, device="meta"), {}, "on the device meta"),
    "device": (Net(), {"device": "tpu"}, "it is auto, cpu or cuda"),
    "outputs": (Net(), {"outputs": "logit"}, "did you mean 'logits'"),
    "n_classes": (Net(), {"n_classes": 5}, "n_classes is 5, and the model answers 4"),
    "one class": (Net(), {"n_classes": 1}, "two classes or more"),
    "mean of 0 to 255": (Net(), {"mean": 127.5, "std": 127.5}, "meant for pixels of 0 to 255"),
    "std of 0": (Net(), {"mean": 0.5, "std": 0.0}, "std must be above 0"),
    "two means": (Net(), {"mean": (0.5, 0.5), "std": 1.0}, "mean has 2 numbers, .* 3 channels"),
    "mean in words": (Net(), {"mean": "half"}, "not a number"),
    "a function that fails": (lambda x: x.no, {}, "the function failed on a NumPy array"),
    "a function with mean": (scores, {"mean": 0.5}, "leave mean and std out"),
    "a function of words": (lambda x: np.array(["a"] * len(x)), {}, "it must return scores"),
    "labels out of range": (
        lambda x: np.full(len(x), 9),
        {"n_classes": 4},
        "answered labels from 9 to 9; with 4 classes",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_will_not_do_gets_one_line(name):
    model, options, line = WRONG[name]
    with pytest.raises(UsageError, match=line) as caught:
        adapt(model, **options)
    assert "\n" not in str(caught.value)


def test_the_fingerprint_is_of_weights_structure_and_normalisation():
    def of(model, answers=b"", **options):
        return fingerprint(adapt(model, **options)[0], answers)

    plain = of(Net())
    assert plain == of(Net())
    other = copy.deepcopy(Net())
    with torch.no_grad():
        other.linear.bias[0] += 1
    different = [
        of(other),
        of(nn.Sequential(Net())),
        of(Net(), mean=0.5, std=0.5),
        of(Net(), outputs="labels"),
        of(Net(), b"other answers"),
        of(scores),
        of(scores, b"other answers"),
    ]
    assert len({plain, *different}) == 8
