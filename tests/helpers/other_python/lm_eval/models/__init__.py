"""Stands in for lm-evaluation-harness in the process of an engine."""
