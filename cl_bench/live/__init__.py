"""What a run is at: as values, as lines of a screen, and how much is left."""
