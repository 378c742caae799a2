"""Kernels and settings for processors."""
