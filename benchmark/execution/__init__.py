"""The grid of a run: planned, computed cell by cell, and gone on with."""
