"""What the sections say, computed from a run's tables."""
