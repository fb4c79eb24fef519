"""Tables of a run: as CSV, Markdown, LaTeX and on the page."""
