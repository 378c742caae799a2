"""Prompt templates of tasks, compiled once."""

from __future__ import annotations

import functools


def keep_compiled_templates() -> None:
    """Makes lm-eval keep the Jinja templates that it has compiled, for the whole process.

    It compiles the template of a prompt, a choice or a target anew for each document, about two
    milliseconds each time. A compiled template has no state: what it renders depends on the
    document alone.
    """
    from lm_eval.utils import env

    if not hasattr(env.from_string, "cache_info"):
        env.from_string = functools.lru_cache(maxsize=1024)(env.from_string)
