"""Decoding that a device does by itself for several steps, before the host looks at the tokens."""
