"""Decoder layers that generate on a CPU: their own kernels, and one store of keys and values."""
