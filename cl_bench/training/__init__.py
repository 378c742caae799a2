"""How weights move: the selective update, the loss, the optimiser."""
