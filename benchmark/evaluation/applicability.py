"""Which attack makes sense on which defense; the others are skipped, with the reason."""

from benchmark.attacks.base import Attack
from benchmark.config.spec import AttackSpec
from benchmark.models.defense import Defense


def unsuited(defense: Defense, attack: Attack, spec: AttackSpec) -> str:
    """Return why ``attack``, set as in ``spec``, is not run on ``defense``; "" if it is.

    The trained instance decides: its options may differ from its class (noise set to zero makes a
    stochastic defense deterministic). An attack is skipped where it could only repeat another one
    (EOT without noise, BPDA in place of the model's own gradient) or has nothing to search with.
    Everything else runs: a useless attack costs time, a missing one may hide a weakness.
    """
    if attack.needs_generator and defense.latent_dim is None:
        return "it searches the latents of a generator, and this defense has no generator"
    follows_gradient = attack.needs_gradient and not attack.needs_generator
    if attack.needs_gradient and defense.gives != "gradients":
        return f"it follows the gradient, and of this model only {defense.gives} can be had"
    if follows_gradient and not spec.bpda and not defense.differentiable:
        return "it follows the gradient, and this defense passes none to the image without BPDA"
    if spec.bpda and defense.differentiable and not _has_surrogate(defense):
        return "BPDA stands in for a missing gradient, and this defense is differentiable"
    if spec.eot > 1 and not defense.stochastic:
        return f"EOT averages over noise, and this defense has none: all {spec.eot} draws are equal"
    return ""


def _has_surrogate(defense: Defense) -> bool:
    """Tell whether BPDA would differentiate something other than the defense itself.

    A defense that hides its gradient may count as differentiable; if it names a surrogate, the
    attack through that one tells.
    """
    return type(defense).surrogate is not Defense.surrogate
