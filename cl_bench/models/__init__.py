"""From model.path to a model: kinds, positions, layouts, checkpoints."""
