"""The paper's Figure 5 as a section: the embeddings in the plane, clean and attacked."""

from benchmark.results.embedding_points import read_codes
from reports.figures.embedding_map import code_maps
from reports.section import RunContext, Section, figure_section

WORDS = (
    "Embeddings of test images, clean (left) and attacked (right), placed by one t-SNE per defense."
    " Dots are classified correctly, down triangles wrongly; a number is where the clean embeddings"
    " of its class lie. t-SNE keeps neighbourhoods: distances between groups, their sizes and the"
    " axes mean nothing."
)


def make(context: RunContext) -> Section | None:
    """Return the section; None where the run has no code map."""
    picture = code_maps(read_codes(context.run.path))
    if picture is None:
        return None
    figures = {f"{context.prefix}codes": (picture, "")}
    return figure_section(
        "codes", "The embeddings in the plane", figures, before=[WORDS], wide=True
    )
