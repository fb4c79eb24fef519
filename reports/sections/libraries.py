"""The same attack in several libraries: a figure per defense and attack, a curve per library."""

from reports.analysis.flags import flags_of, labelled
from reports.figures import curves
from reports.section import RunContext, Section, figure_section, slug

KEY = ["norm", "attack", "defense"]
NAMED = 40
WORDS = (
    "One attack as each library implements it, on the same defense. Libraries need not attack"
    " equally many images, which the bands show; where the curves lie apart by more than their"
    " bands, the attacks differ, and the lowest curve is the one to trust."
)
FEWEST, MOST, WORK = 4, 14, 20_000
"""Figures drawn: fewer the more cells a run has, which must not take minutes to report on. Those
left out are named, and are in the tables."""


def make(context: RunContext) -> Section | None:
    """Return the section; None where no attack has a result in two libraries on one defense."""
    ok = context.pooled[context.pooled["status"] == "ok"]
    counts = ok.groupby(KEY, sort=False)["library"].nunique()
    several = list(counts.index[counts > 1])
    if not several:
        return None
    libraries = list(dict.fromkeys(context.pooled["library"]))
    styles = curves.line_styles(libraries)
    pooled = dict(iter(context.pooled.groupby(KEY, sort=False)))
    cells = dict(iter(context.cells.groupby(KEY, sort=False)))
    figures = {}
    most = max(FEWEST, min(MOST, WORK // len(context.cells)))
    for i, key in enumerate(several[:most], 1):
        _, attack, defense = key
        own, single = (
            frame[key].assign(defense=frame[key]["library"], library="each library")
            for frame in (pooled, cells)
        )
        switches = dict.fromkeys(libraries, defense)
        words = flags_of(context, str(own["norm"].iloc[0]))
        subject = labelled(defense, words)
        picture = curves.security_curves(own, single, styles, subject, switches)
        assert picture is not None  # two libraries have a result
        figures[f"{context.prefix}libraries-{i:02d}-{slug(attack, defense)}"] = picture, ""
    title = "The same attack in several libraries"
    after = _left_out(several, len(figures))
    return figure_section("libraries", title, figures, before=[WORDS], after=after)


def _left_out(several: list[tuple[str, str, str]], drawn: int) -> list[str]:
    """Say which of the defenses and attacks with several libraries are not drawn."""
    names = [f"{defense} under {attack}" for _, attack, defense in several[drawn:]]
    if not names:
        return []
    more = " and others" if len(names) > NAMED else ""
    return [
        f"Drawn are the first {drawn} of {len(several)} defenses and attacks with several"
        " libraries; the tables above hold the numbers of all. Not drawn:"
        f" {', '.join(names[:NAMED])}{more}."
    ]
