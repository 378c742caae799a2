"""Stages from files: from a user's rows to a task like any other, in memory."""
