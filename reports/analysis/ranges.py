"""Stretches of a grid in words: neighbours that say the same are said once."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import groupby
from typing import TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


def runs_of(items: Iterable[Item], key: Callable[[Item], Key]) -> list[tuple[Key, list[Item]]]:
    """Return the stretches of consecutive ``items`` that have an equal ``key``."""
    return [(value, list(group)) for value, group in groupby(items, key)]


def eps_words(eps: Sequence[float], grid: Sequence[float]) -> str:
    """Return ``0.1 to 0.3``, or ``0.1, 0.3 and 0.4`` where the ``grid`` has others in between."""
    at = {value: i for i, value in enumerate(sorted(set(grid)))}
    # Neighbours' ranks and places in the list grow alike.
    stretches = runs_of(enumerate(sorted(eps)), lambda item: at[item[1]] - item[0])
    words: list[str] = []
    for _, group in stretches:
        values = [value for _, value in group]
        if len(values) > 2:
            words.append(f"{values[0]:g} to {values[-1]:g}")
        else:
            words += [f"{value:g}" for value in values]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
