"""Figures: what each shows, the one style they have, and the files they are written to."""
