"""Is this the same experiment: what its numbers are bound to."""
