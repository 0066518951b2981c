"""Assembly: one response out of all that a run's model turns and tools stream. Pure computation."""
