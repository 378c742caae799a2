"""Bytes and FLOPs, from shapes alone."""
