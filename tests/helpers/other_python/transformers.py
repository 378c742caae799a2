"""Found where versions are asked for; the engine's process must not need it."""

raise ImportError("not here")
