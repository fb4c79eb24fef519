"""What of a command line does nothing, or not to every attack: said, never silent."""

from collections.abc import Iterator, Sequence
from functools import partial

from benchmark.attacks.loader import attack_family
from benchmark.config.spec import AttackSpec, RunSpec
from benchmark.execution.plan import attack_name
from benchmark.plugins.names import canonical
from benchmark.registry import DEFENSES


def remarks(
    spec: RunSpec,
    *,
    dataset: str = "",
    defenses: Sequence[str] = (),
    attacks: Sequence[str] = (),
    libraries: Sequence[str] = (),
    eps: Sequence[float] | None = None,
    n_test: int | None = None,
) -> Iterator[str]:
    """Yield a sentence on each option of ``run`` that ``spec`` follows in part or not at all."""
    yield from renamed("--dataset", dataset, spec.dataset)
    for option, words, name_of in (
        ("--defenses", defenses, partial(canonical, DEFENSES)),
        ("--attacks", attacks, attack_name),
        ("--libraries", libraries, str),
    ):
        called = [name_of(word) for word in words]
        for word, name in dict.fromkeys(zip(words, called, strict=True)):
            yield from renamed(option, word, name)
        twice = [name for name in dict.fromkeys(called) if called.count(name) > 1]
        if twice:
            yield f"{option}: named twice, run once: {', '.join(twice)}"
    if eps:
        others = [attack for attack in spec.attacks if attack.threat.eps != tuple(eps)]
        for norm in dict.fromkeys(attack.threat.norm for attack in others):
            names = _names([attack for attack in others if attack.threat.norm == norm])
            yield f"--eps counts in {spec.attacks[0].threat.norm}: {names} keeps its {norm} grid"
    if n_test is not None:
        fewer = [attack for attack in spec.attacks if attack.n < n_test]
        for n in dict.fromkeys(attack.n for attack in fewer):
            names = _names([attack for attack in fewer if attack.n == n])
            yield f"--n-test {n_test}: the preset has {names} attack {n} of these images"
    idle = [name for name in dict.fromkeys(libraries) if name not in _libraries(spec)]
    if idle:
        yield f"--libraries: no attack of this run is asked of {', '.join(idle)}"
    if spec.exact and all(attack_family(attack) == "minimal" for attack in spec.attacks):
        yield f"--exact changes nothing: {_names(spec.attacks)} searches once, without an eps"


def renamed(option: str, word: str, name: str) -> Iterator[str]:
    """Yield that what was asked for as ``word`` is ``name`` in the results, if that is another."""
    if word and word != name:
        yield f"{option}: {word} is {name}, and has that name in the results"


def _libraries(spec: RunSpec) -> set[str]:
    return {attack.library for attack in spec.attacks}


def _names(attacks: Sequence[AttackSpec]) -> str:
    return ", ".join(dict.fromkeys(attack.name for attack in attacks))
