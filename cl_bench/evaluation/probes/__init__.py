"""Likelihoods and divergences that show small forgetting."""
