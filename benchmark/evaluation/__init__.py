"""Attack and judge, in one place."""
