"""Metrics as pure functions: what TRACE computes, to the last digit, and a modern column beside it.

`trace.py` is the way in (task name -> metrics); the other modules hold one definition each.
Nothing here imports torch.
"""
