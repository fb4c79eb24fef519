"""Adapters for other attack libraries: one file per library."""
