"""Experiment trackers: where a group keeps its runs, told of each result. None is a dependency."""
