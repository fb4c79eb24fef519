"""What an unknown attack may have meant: ours, the preset's variants, the libraries' classes.

What a library has is read from the library itself, so a hint names only what is there.
"""

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from itertools import islice

from benchmark.config.spec import INHOUSE
from benchmark.errors import UsageError
from benchmark.registry import ATTACKS, LIBRARIES

ALIASES = {
    "aa": "autoattack",
    "standardattack": "autoattack",
    "apgdce": "apgd",
    "apgddlr": "apgd",
    "apgdtargeted": "apgdt",
    "fabt": "fab",
    "ifgsm": "bim",
    "mim": "mifgsm",
    "mifgm": "mifgsm",
    "pgdlinf": "pgd",
    "carliniwagner": "cw",
    "candw": "cw",
    "cwl2": "cw",
    "ead": "eadl1",
    "hsja": "hopskipjump",
    "jsma": "saliencymapmethod",
    "newton": "newtonfool",
    "acg": "autoconjugategradient",
    "momentumiterative": "momentumiterativemethod",
}
"""Other names in the literature, of what is one attack; letters and digits only."""

MOST = 3


def unknown_attack(name: str, variants: Iterable[str] = ()) -> UsageError:
    """Return the error for an unknown attack ``name``, with what comes nearest.

    ``variants`` are the names that the preset gives to attacks with settings of its own.
    """
    near = nearest_attacks(name, variants)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    known = sorted({*ATTACKS.names(), *variants})
    return UsageError(
        f"unknown attack {name!r}{hint} Known: {', '.join(known)}, and a library's own as"
        " library:Class"
    )


def nearest_attacks(name: str, variants: Iterable[str] = ()) -> list[str]:
    """Return at most three words for ``--attacks`` that come nearest to ``name``, best first.

    The same letters count first, then another name of the same attack, a word that begins like it,
    and a misspelling.
    """
    words: dict[str, list[str]] = {}
    for folded, word in _offered(variants):
        words.setdefault(folded, []).append(word)
    asked = _folded(name.rpartition(":")[2].partition("(")[0])
    longer = [each for each in words if len(asked) >= 3 and each.startswith(asked)]
    found = [asked, ALIASES.get(asked, ""), *sorted(longer, key=len)]
    if not any(each in words for each in found):
        found = get_close_matches(asked, words, n=MOST, cutoff=0.6)
    named = dict.fromkeys(word for each in found for word in words.get(each, ()))
    near = list(islice(filter(_runs, named), MOST))
    return near if not near or ":" in near[0] else near[:1]  # ours needs no other


def _runs(word: str) -> bool:
    """Tell whether a library gives its class: it may lack a package, or be of no use here."""
    library, _, cls = word.rpartition(":")
    try:
        return not library or bool(LIBRARIES.load(library).attack(cls))
    except UsageError:
        return False


def _offered(variants: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield every attack that can be asked for: its letters, and the word for ``--attacks``."""
    for name in dict.fromkeys((*ATTACKS.names(), *variants)):
        yield _folded(name), name
    for name in LIBRARIES.names():
        library = LIBRARIES.load(name)
        if library.available and library.classes is not None:
            for cls in library.classes():
                yield _folded(cls), f"{name}:{cls}"


def _folded(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower())


def unknown_library(name: str, asked: str = "") -> UsageError:
    """Return the error for an unknown attack library; ``asked`` is its attack.

    An attack's name in its place is told where it belongs.
    """
    known = sorted([INHOUSE, *LIBRARIES.names()])
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.7)
    attacks = nearest_attacks(name)
    hint = "."
    if near and all(_folded(word.rpartition(":")[2]) != _folded(name) for word in attacks):
        hint = f"; did you mean {near[0]!r}?"
    elif attacks := attacks or (asked not in ATTACKS.entries() and nearest_attacks(asked)) or []:
        hint = f"; did you mean --attacks {' or '.join(attacks)}?"
    return UsageError(f"unknown library {name!r}{hint} Known: {', '.join(known)}")
