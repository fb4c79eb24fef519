"""What an attack sees: EOT, BPDA, query counts, frozen parameters, and clamps found out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import Function, Linear, Noisy, SmallCNN, images, pixels

from benchmark.attacks.losses import cross_entropy, margin
from benchmark.attacks.view import INSIDE, attack_view, clamps_input


def score(logits, y):
    """The second logit: a loss whose gradient is the model's own."""
    return logits[:, 1]


# --- EOT


def test_eot_averages_loss_logits_and_gradient_over_fresh_draws():
    model = Noisy(torch.tensor([1.0]), [0.0, 1.0, 5.0])
    with attack_view(model, 2, eot=3) as view:
        loss, logits, gradient = view.gradient(pixels(0.5, 0.25), torch.tensor([0, 0]), score)
        forwards, backwards = view.counts()
    assert loss.tolist() == [2.5, 2.25]
    assert logits[:, 1].tolist() == [2.5, 2.25]
    assert gradient.flatten().tolist() == [1, 1]
    assert model.draws == 3
    assert forwards.tolist() == backwards.tolist() == [3, 3]


def test_eot_averages_the_loss_not_the_logits():
    model = Noisy(torch.tensor([1.0]), [-4.0, 4.0])
    x, y = pixels(0.5), torch.tensor([0])
    with attack_view(model, 1, eot=2) as view:
        loss, _, gradient = view.gradient(x, y, cross_entropy)
    expected = [F.softplus(torch.tensor(0.5 + offset)) for offset in (-4, 4)]
    slopes = [torch.sigmoid(torch.tensor(0.5 + offset)) for offset in (-4, 4)]
    assert loss.item() == pytest.approx(sum(expected).item() / 2, rel=1e-6)
    assert gradient.item() == pytest.approx(sum(slopes).item() / 2, rel=1e-6)


def test_eot_through_plain_calls():
    model = Noisy(torch.tensor([2.0]), [0.0, 1.0])
    with attack_view(model, 1, eot=2) as view:
        x = pixels(0.5).requires_grad_()
        logits = view(x)
        logits[:, 1].sum().backward()
        counts = [count.tolist() for count in view.counts()]
    assert logits[0, 1].item() == 1.5
    assert x.grad.item() == 2
    assert counts == [[2], [2]]


# --- BPDA


class Rounding(Linear):
    """Rounds its input, which has no gradient; the surrogate does not."""

    def forward(self, x):
        return super().forward(x.round())

    def surrogate(self, x):
        return super().forward(x)


def test_bpda_takes_the_value_from_forward_and_the_gradient_from_the_surrogate():
    model = Rounding(torch.tensor([3.0]))
    x, y = pixels(0.6), torch.tensor([0])
    with attack_view(model, 1) as view:
        _, _, gradient = view.gradient(x, y, score)
    assert gradient.item() == 0
    with attack_view(model, 1, bpda=True) as view:
        _, logits, gradient = view.gradient(x, y, score)
        assert view.logits(x)[0, 1].item() == pytest.approx(3)
        forwards, backwards = view.counts()
    assert logits[0, 1].item() == pytest.approx(3)  # of round(0.6), not 1.8
    assert gradient.item() == 3
    assert forwards.tolist() == [4]  # forward and surrogate at each query
    assert backwards.tolist() == [1]


def test_bpda_weighs_the_loss_by_the_deployed_value():
    model = Rounding(torch.tensor([3.0]))
    with attack_view(model, 1, bpda=True) as view:
        _, _, gradient = view.gradient(pixels(0.6), torch.tensor([0]), cross_entropy)
    assert gradient.item() == pytest.approx(3 * torch.sigmoid(torch.tensor(3.0)).item())


class Exact(Rounding):
    """Its surrogate returns forward's value, with the identity for the rounding's gradient."""

    exact_surrogate = True

    def surrogate(self, x):
        return Linear.forward(self, x.round() + (x - x.detach()))


def test_bpda_asks_an_exact_surrogate_alone():
    model = Exact(torch.tensor([3.0]))
    x, y = pixels(0.6, 0.4), torch.tensor([0, 0])
    with attack_view(model, 2, bpda=True) as view:
        _, logits, gradient = view.gradient(x, y, score)
        assert torch.equal(view.logits(x), model(x))
        forwards, backwards = view.counts()
    assert logits[:, 1].tolist() == [3, 0]  # of the rounded images
    assert gradient.flatten().tolist() == [3, 3]
    assert forwards.tolist() == [2, 2]
    assert backwards.tolist() == [1, 1]
    assert model.forwards == 2 * 3  # two queries, and the test's own call


# --- behind a generator


class Generated(Linear):
    """G(z) = 2 z, one pixel; its forward searches nothing, and must not be asked."""

    latent_dim = 1

    def generate(self, z):
        return (2 * z).view(-1, 1, 1, 1)

    def classify_generated(self, x):
        return super().forward(x)

    def forward(self, x):
        raise AssertionError("not behind the generator")


def test_an_attack_may_ask_for_images_and_logits_by_their_latents():
    with attack_view(Generated(torch.tensor([3.0])), 2, eot=5, bpda=True) as view:
        assert view.latent_dim == 1
        z = torch.tensor([[0.1], [0.2]], requires_grad=True)
        images, logits = view.classify_latents(z)
        (slope,) = torch.autograd.grad(logits[:, 1].sum() + images.sum(), z)
        counts = [count.tolist() for count in view.counts()]
    assert images.flatten().tolist() == pytest.approx([0.2, 0.4])
    assert logits[:, 1].tolist() == pytest.approx([0.6, 1.2])
    assert slope.flatten().tolist() == [8, 8]
    assert counts == [[1, 1], [1, 1]]


def test_a_pass_through_the_generator_alone_counts_too():
    with attack_view(Generated(torch.ones(1)), 2) as view:
        z = torch.zeros(6, 1, requires_grad=True)  # three latents for each image
        view.generate(z).sum().backward()
        with torch.no_grad():
            view.generate(z)
        counts = [count.tolist() for count in view.counts()]
    assert counts == [[6, 6], [3, 3]]


def test_a_defense_without_a_generator_has_no_latents():
    with (
        attack_view(Linear(torch.ones(1)), 1) as view,
        pytest.raises(ValueError, match="Linear has no generator"),
    ):
        _ = view.latent_dim


# --- counting


def test_select_counts_for_the_selected_rows():
    x, y = torch.rand(4, 1, 1, 1), torch.zeros(4).long()
    with attack_view(Linear(torch.ones(1)), 4) as view:
        view.gradient(x, y, score)
        odd = view.select(torch.tensor([1, 3]))
        odd.gradient(x[1::2], y[1::2], score)
        odd.logits(x[1::2])
        last = odd.select(torch.tensor([1]))
        last.logits(x[3:])
        last.select(torch.tensor([0])).gradient(x[3:], y[3:], score)
        view.select(torch.tensor([3, 0])).logits(x[:2])
        forwards, backwards = view.counts()
    assert forwards.tolist() == [2, 3, 1, 6]
    assert backwards.tolist() == [1, 2, 1, 3]
    assert forwards.dtype == backwards.dtype == torch.int64


def test_a_peer_library_counts_through_forward_and_backward():
    with attack_view(Linear(torch.ones(1)), 3) as view:
        x = torch.rand(3, 1, 1, 1, requires_grad=True)
        for _ in range(2):
            F.cross_entropy(view(x), torch.zeros(3).long()).backward()
        with torch.no_grad():
            view(x)
        view(x)  # a graph that nobody goes back through
        forwards, backwards = view.counts()
    assert forwards.tolist() == [4] * 3
    assert backwards.tolist() == [2] * 3


def test_a_query_with_another_number_of_images_counts_its_share():
    with attack_view(Linear(torch.ones(1)), 4) as view:
        for rows in (2, 2, 8):  # half of the batch twice, then two variants of each image
            view(torch.rand(rows, 1, 1, 1))
        assert view.counts()[0].tolist() == [3] * 4


def test_a_new_batch_counts_from_zero():
    with attack_view(Linear(torch.ones(1)), 1, eot=2, bpda=True, inside=0.1) as view:
        view(pixels(0.5))
        fresh = view.batch(7)
    assert fresh.counts()[0].tolist() == [0] * 7
    assert (fresh.eot, fresh.bpda, fresh.inside) == (2, True, 0.1)


# --- modes and parameters


def test_parameters_are_frozen_inside_and_restored():
    model = SmallCNN()
    fixed = next(model.parameters())
    fixed.requires_grad_(False)
    before = [p.requires_grad for p in model.parameters()]
    with attack_view(model, 2) as view:
        assert not any(p.requires_grad for p in view.parameters())
        view.gradient(images(2), torch.tensor([0, 1]), cross_entropy)
    assert [p.requires_grad for p in model.parameters()] == before
    assert all(p.grad is None for p in model.parameters())


def test_evaluation_mode_is_kept_and_modes_are_restored_exactly():
    model = SmallCNN()
    model.train()
    model.net[1].eval()  # someone froze the batch norm
    before = {name: m.training for name, m in model.named_modules()}
    statistics = model.net[1].running_mean.clone()
    with attack_view(model, 8) as view:
        view.train()
        assert not any(m.training for m in model.modules())
        assert torch.equal(view(images(8)), view(images(8)))  # no dropout
    assert {name: m.training for name, m in model.named_modules()} == before
    assert torch.equal(model.net[1].running_mean, statistics)


def test_all_is_restored_after_an_exception():
    model = SmallCNN()
    model.train()

    def attacked():
        with attack_view(model, 1):
            raise KeyError

    with pytest.raises(KeyError):
        attacked()
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_views_nest_as_adversarial_training_in_an_attack_would():
    model = SmallCNN()
    with attack_view(model, 1):
        with attack_view(model, 1):
            pass
        assert not any(p.requires_grad for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())


# --- clamps


def clamping(clamp):
    cnn = SmallCNN()
    return Function(lambda x: cnn(clamp(x)))


def by_relu(x):
    """A clamp without gradient at its bounds in every version of torch."""
    return 1 - F.relu(1 - F.relu(x))


def found(model, x, loss=margin):
    with attack_view(model, len(x)) as view:
        return clamps_input(view, x, torch.zeros(len(x)).long(), loss)


def gradient(model, x, **options):
    with attack_view(model, len(x), **options) as view:
        return view.gradient(x, torch.zeros(len(x)).long(), cross_entropy)[2]


def clamp_passes_gradients_at_its_bounds():
    x = torch.zeros(1, requires_grad=True)
    x.clamp(0, 1).sum().backward()
    return bool(x.grad)


def test_finds_a_defense_that_clamps():
    model, x = clamping(lambda x: x.clamp(0, 1)), images(8)
    if clamp_passes_gradients_at_its_bounds():  # torch before 2.14: nothing is hidden
        assert not found(model, x)
    else:
        assert found(model, x)


def test_gradients_just_inside_show_what_the_clamp_hides():
    model, x = clamping(by_relu), images(8)
    edge = (x == 0) | (x == 1)
    assert found(model, x)
    assert not gradient(model, x)[edge].any()
    shown, bare = gradient(model, x, inside=INSIDE), gradient(SmallCNN(), x)
    assert torch.allclose(shown, bare, atol=1e-4)
    assert shown[edge].any()


def test_inside_changes_no_value_noticeably():
    x = images(4)
    with attack_view(SmallCNN(), 4, inside=INSIDE) as near, attack_view(SmallCNN(), 4) as plain:
        assert torch.allclose(near.logits(x), plain.logits(x), atol=1e-4)


@pytest.mark.parametrize("loss", [margin, cross_entropy])
def test_a_plain_network_is_not_flagged(loss):
    assert not found(SmallCNN(), images(8), loss)


def test_a_defense_without_a_gradient_hides_none():
    class Blind(Function):
        differentiable = False

    model = Blind(lambda x: SmallCNN()(x.detach()))
    assert not found(model, images(8))
    with attack_view(model, 8, bpda=True) as view, pytest.raises(RuntimeError):
        clamps_input(view, images(8), torch.zeros(8).long(), margin)  # with BPDA one is owed


def test_images_without_edge_pixels_show_nothing():
    assert not found(clamping(by_relu), images(8) * 0.5 + 0.25)


def test_a_network_blind_to_the_edge_pixels_is_not_flagged():
    cnn = SmallCNN()
    window = F.pad(torch.ones(4, 4), (2, 2, 2, 2))
    model = Function(lambda x: cnn(x * window))
    x = images(8) * 0.5 + 0.25
    x[:, :, 0, 0], x[:, :, -1, -1] = 0.0, 1.0  # only corners stand on the edge
    assert not gradient(model, x)[:, :, 0, 0].any()
    assert not found(model, x)


def test_a_confident_clamping_defense_is_found_by_the_margin():
    # Cross-entropy saturates: its gradient is exactly 0 everywhere, clamped or not.
    cnn = SmallCNN()
    model = Function(lambda x: cnn(by_relu(x)) + torch.tensor([1e3, 0.0, 0.0]))
    assert not found(model, images(8), cross_entropy)
    assert found(model, images(8), margin)


def test_a_module_for_libraries_that_expect_one():
    with attack_view(SmallCNN(), 1) as view:
        assert isinstance(view, nn.Module)
        assert next(view.parameters()).device.type == "cpu"
        assert not view.stochastic
        assert not view.training or view.eval() is view


# --- gradients that are NaN or infinite


def broken_at(pixel, value):
    """A sum of pixels whose gradient is ``value`` at one of them wherever that one is below 0.5."""

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            gradient = gradient.clone()
            at = gradient.flatten(1)[:, pixel]
            gradient.view(len(x), -1)[:, pixel] = torch.where(
                x.flatten(1)[:, pixel] < 0.5, value, at
            )
            return gradient

    return Function(lambda x: F.pad(Broken.apply(x).flatten(1).sum(1, keepdim=True), (1, 0)))


@pytest.mark.parametrize(("value", "taken"), [(torch.nan, 0), (torch.inf, 1), (-torch.inf, -1)])
def test_entries_of_a_gradient_that_are_not_finite_are_dropped_and_counted(value, taken):
    """NaN says nothing. An infinity has a sign, and outweighs no other entry."""
    model, x = broken_at(2, value), torch.full((5, 1, 2, 2), 0.7)
    x[1:3, 0, 1, 0] = 0.2
    with attack_view(model, 5, eot=2) as view:
        gradient = view.gradient(x, torch.zeros(5).long(), score)[2].flatten(1)
        assert gradient[:, [0, 1, 3]].eq(1).all()
        assert gradient[:, 2].tolist() == [1, taken, taken, 1, 1]
        assert view.dropped() == 2
        # Once more in a part: an image counts once.
        view.select(torch.tensor([2, 4])).gradient(x[[2, 4]], torch.zeros(2).long(), score)
        assert view.dropped() == 2
        assert view.broken() == 0


def test_of_a_gradient_of_infinities_alone_the_signs_stay():
    """An overflow loses the size and need not lose the direction: sign steps find the way."""
    ways = torch.tensor([[1.0, -1.0], [0.0, torch.nan]])

    class Overflowing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return torch.where(ways == 0, 0.0, ways * torch.inf).expand_as(gradient)

    model = Function(lambda x: F.pad(Overflowing.apply(x).flatten(1).sum(1, keepdim=True), (1, 0)))
    x = torch.full((3, 1, 2, 2), 0.2)
    with attack_view(model, 3) as view:
        gradient = view.gradient(x, torch.zeros(3).long(), score)[2]
        assert view.dropped() == 3
    assert torch.equal(gradient, torch.tensor([[1.0, -1.0], [0.0, 0.0]]).expand_as(gradient))


def test_a_library_that_differentiates_the_view_meets_no_nan():
    model, x = broken_at(0, torch.nan), torch.full((3, 1, 2, 2), 0.2)
    with attack_view(model, 3) as view:
        own = x.clone().requires_grad_()
        for _ in range(2):  # the same tensor again
            (gradient,) = torch.autograd.grad(view(own)[:, 1].sum(), own)
            assert gradient.flatten(1).tolist() == [[0, 1, 1, 1]] * 3
        assert view.dropped() == 3
        (gradient,) = torch.autograd.grad(view(own[:2])[:, 1].sum(), own)
        assert gradient.isfinite().all()
        assert view.dropped() == 3


def test_an_audit_sees_them():
    model, x = broken_at(0, torch.nan), torch.full((3, 1, 2, 2), 0.2)
    with attack_view(model, 3) as view:
        view.drops = False
        assert view.gradient(x, torch.zeros(3).long(), score)[2].isnan().any()
        assert view.dropped() == 0
