"""Reports of runs: tables, figures and one self-contained page. They read results, never torch."""
