"""One file a command: arguments only."""
