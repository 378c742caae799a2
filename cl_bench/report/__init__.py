"""Markdown tables, figures and the plan."""
