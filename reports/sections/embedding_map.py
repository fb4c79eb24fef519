"""The paper's Figure 5 as a section: the embeddings in the plane, clean and attacked."""

from benchmark.results.embedding_points import read_codes
from reports.figures.embedding_map import code_maps
from reports.section import RunContext, Section, shown


def make(context: RunContext) -> Section | None:
    """Return the section; None where the run has no code map."""
    picture = code_maps(read_codes(context.run.path))
    if picture is None:
        return None
    files: dict[str, bytes] = {}
    view = {"figure": shown(f"{context.prefix}codes", picture, files)}
    return Section(
        "codes", "The embeddings in the plane", "sections/embedding_map.html.j2", view, files
    )
