"""Figures of a run: PNG, SVG and interactive."""
