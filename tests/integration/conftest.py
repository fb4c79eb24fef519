"""Fixtures that several of these tests share."""

from plugin_runs import own_cache, untouched

__all__ = ["own_cache", "untouched"]
