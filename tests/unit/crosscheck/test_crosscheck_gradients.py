"""The cross-check's finding on the size of gradients: when it speaks, and when it does not."""

import pytest
import torch
from crosscheck_sentences import sentences
from toys import Function, Scripted, dataset, pixels

from benchmark.attacks.view import attack_view
from benchmark.crosscheck.recorder import Recorder, RecordingView


def crowd(*scores: float):
    """A model with these scores of its second class at images of one pixel, and the images.

    Around each image the score rises with slope 8.
    """
    x = (torch.arange(len(scores)) + 1) * 10 / 255
    table = torch.tensor(scores)

    def logits(queried):
        value = queried.flatten(1)[:, 0]
        row = (value.detach()[:, None] - x).abs().argmin(1)
        score = table[row] + 8 * (value - x[row])
        return torch.stack([torch.zeros_like(score), score], 1)

    data = dataset(x.view(-1, 1, 1, 1), torch.zeros(len(scores), dtype=torch.long))
    return {"model": Function(logits), "data": data}


def stepping(reduce, start=0.0):
    """One sign step up the cross-entropy, reduced over the batch by ``reduce``."""

    def script(view, x, y, eps):
        x_adv = (x + start).requires_grad_()
        losses = torch.nn.functional.cross_entropy(view(x_adv), y, reduction="none")
        (gradient,) = torch.autograd.grad(reduce(losses), x_adv)
        return (x + eps * gradient.sign()).clamp(0, 1)

    return Scripted(script=script)


SUM, MEAN = stepping(torch.sum), stepping(torch.mean)
PLAIN = (-1.0, -2.0, -3.0, -4.0)
SMALL = {"eps": (0.0, 0.01)}


def test_gradients_of_a_mean_that_underflow() -> None:
    # exp(-100) is 27 times the least number of float32, times 8 for the slope: the 64th part is
    # no number, and the gradient of the logits, a 64th of 27 of them, is 0 already.
    scene = crowd(*[-1.0 - i / 8 for i in range(22)], -100.0, -100.0)
    attacks = {"sum": SUM, "it": stepping(lambda losses: losses.sum() / 64)}
    found = sentences(attacks, **scene, **SMALL)
    assert "takes gradients 0.0156 times as large as those of sum at the same images" in found
    assert "averaged" not in found  # there are 24 images in the batch
    assert (
        "In 2 of 24 attempts (an image at an eps) entries of them underflow to exactly 0" in found
    )
    assert "Of the images of these attempts 2 differ from sum's, of the 22 others 0." in found
    assert sentences(attacks, "sum", **scene, **SMALL) == ""


def test_gradients_of_a_mean_that_do_not_underflow() -> None:
    attacks = {"it": MEAN, "sum": SUM, "more": SUM}
    found = sentences(attacks, **crowd(*PLAIN), **SMALL)
    assert "takes gradients 0.25 times as large as those of sum" in found
    assert "(median), as of a loss averaged over the batch." in found
    assert found.endswith("so at the image a sign step is unaffected.")
    assert sentences(attacks, "more", **crowd(*PLAIN), **SMALL) == ""


def test_what_else_differs_is_not_laid_to_underflow() -> None:
    def contrary(view, x, y, eps):
        x_adv = MEAN.script(view, x, y, eps)
        x_adv[0] = x[0]
        return x_adv

    attacks = {"it": Scripted(script=contrary), "sum": SUM}
    found = sentences(attacks, **crowd(*PLAIN), **SMALL)
    assert "its images still differ from those of sum in 1 of 4 attempts" in found
    assert "power of two" not in found  # a quarter rounds nothing
    assert "no power of two" in sentences(attacks, **crowd(*PLAIN[:3]), **SMALL)


@pytest.mark.parametrize(
    "other",
    [
        SUM,
        stepping(lambda losses: 0.9 * losses.sum()),
        stepping(torch.mean, start=0.001),  # not at the image: nothing to compare with
        stepping(lambda losses: (losses * torch.tensor([0.1, 0.2, 0.3, 0.4])).sum()),
    ],
    ids=["equal", "about equal", "started elsewhere", "another loss"],
)
def test_gradients_that_are_not_of_a_smaller_loss(other) -> None:
    attacks = {"it": other, "sum": SUM}
    for name in attacks:
        assert "takes gradients" not in sentences(attacks, name, **crowd(*PLAIN), **SMALL)


def test_gradients_of_a_stochastic_defense_are_not_compared() -> None:
    scene = crowd(*PLAIN)
    scene["model"].stochastic = True
    assert "takes gradients" not in sentences({"it": MEAN, "sum": SUM}, **scene, **SMALL)


def test_a_gradient_is_noted_once_and_of_its_query_alone() -> None:
    x, y = pixels(0.2, 0.6), torch.tensor([0, 0])
    recorder = Recorder(x, y, eps=0.2, norm="linf")
    with attack_view(Function(lambda x: x.flatten(1) * torch.tensor([0.0, 2.0])), 2):
        view = RecordingView(Function(lambda x: x.flatten(1) * torch.tensor([0.0, 2.0])), recorder)
        asked = (x + pixels(0.0, 0.1)).requires_grad_()
        # What the loss takes from the image on another way, and from another query, is not it.
        loss = view(asked)[:, 1].sum() + 3 * view(asked)[:, 1].sum() + 100 * asked.sum()
        torch.autograd.grad(loss, asked)
        assert recorder.gradients.largest[0].item() in (2.0, 6.0)
        assert recorder.gradients.largest[1].isnan()
        view.select(torch.tensor([1])).gradient(x[1:], y[1:], lambda logits, _: -5 * logits[:, 1])
        assert recorder.gradients.largest[1] == 10
        assert recorder.gradients.signs.flatten().tolist() == [1, -1]
        before = recorder.gradients.largest.clone()
        view.gradient(x, y, lambda logits, _: 9 * logits[:, 1])
        assert torch.equal(recorder.gradients.largest, before)
        assert view.counts()[1].tolist() == [3, 4]
