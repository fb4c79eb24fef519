"""Fixtures that several of these tests share."""

from descents import pgd

__all__ = ["pgd"]
