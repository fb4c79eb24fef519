"""Attack libraries: which there are, what they offer, and whether they are installed.

A library is an entry point of the group ``defensebench.attack_libraries`` that names an
:class:`AttackLibrary`; its adapter file imports the library itself only when an attack runs.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec

from benchmark.attacks.base import Attack
from benchmark.config.spec import INHOUSE
from benchmark.errors import UsageError, unknown_name
from benchmark.registry import LIBRARIES


@dataclass(frozen=True)
class AttackLibrary:
    """One library behind an adapter.

    ``attacks`` maps the harness's names (pgd, pgd-l2, cw) to adapter classes that take the same
    settings as the in-house attack of that name. ``named``, where the library has it, maps the
    name of any attack class of the library to an adapter class for it, and raises a UsageError
    with the nearest name for an unknown one; ``classes`` are the names that it knows. Both may
    import the library.
    """

    name: str
    package: str
    distribution: str
    install: str
    attacks: Mapping[str, type[Attack]] = field(default_factory=dict)
    named: Callable[[str], type[Attack]] | None = None
    classes: Callable[[], Collection[str]] | None = None

    @property
    def available(self) -> bool:
        """Whether the library is installed; it is not imported."""
        return find_spec(self.package) is not None

    @property
    def version(self) -> str:
        """The installed version, or "not installed"."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return "not installed"

    def attack(self, name: str) -> type[Attack]:
        """Return the adapter class for ``name``; UsageError if there is none, or no library."""
        if not self.available:
            raise UsageError(f"the library {self.name} is not installed: {self.install}")
        if name in self.attacks:
            return self.attacks[name]
        if self.named is not None:
            return self.named(name)
        raise unknown_name(f"attack of {self.name}", name, self.attacks)


def known_libraries() -> dict[str, AttackLibrary | None]:
    """Return every registered library by name, the in-house one (None) first."""
    if not entry_points(group=LIBRARIES.group):
        return {INHOUSE: None}
    return {INHOUSE: None} | {name: LIBRARIES.load(name) for name in LIBRARIES.names()}
