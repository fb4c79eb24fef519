"""The audit's verdict in a word, beside every accuracy that it concerns."""

from collections.abc import Collection, Mapping

import pandas as pd

from benchmark.results.audit_words import DISTRUSTED, DOUBTFUL, RULINGS
from reports.section import RunContext

Flags = Mapping[tuple[str, str], str]
"""A verdict's word for (norm, defense); nothing for a run that was not audited."""


def flags(context: RunContext) -> Flags:
    """Return the run's verdicts."""
    return flags_in(context.audit.verdicts)


def flags_in(verdicts: pd.DataFrame) -> Flags:
    """Return the words of verdicts.parquet; of several seeds' the worst, which is a defense's."""
    found: dict[tuple[str, str], str] = {}
    for norm, defense, word in verdicts[["norm", "defense", "verdict"]].itertuples(index=False):
        before = found.get((norm, defense), word)
        found[norm, defense] = min(word, before, key=RULINGS.index)
    return found


def flags_of(context: RunContext, norm: str) -> dict[str, str]:
    """Return the words for the accuracies in one norm, by defense."""
    return {defense: word for (own, defense), word in flags(context).items() if own == norm}


def flagged(frame: pd.DataFrame, words: Mapping[str, str]) -> dict[str, str]:
    """Return the frame's defenses as a legend names them: the verdict follows unless it is fair.

    Where every one of them is undecided the legend would only repeat what the page says.
    """
    names = list(dict.fromkeys(frame["defense"]))
    told = {words.get(name, "") for name in names}
    doubtful = DOUBTFUL if told != {"undecided"} else DISTRUSTED
    return {name: labelled(name, words, doubtful) for name in names}


def labelled(name: str, words: Mapping[str, str], doubtful: Collection[str] = DOUBTFUL) -> str:
    """Return a defense's name with its verdict, where that is one of the ``doubtful``."""
    return f"{name} ({words[name]})" if words.get(name) in doubtful else name
