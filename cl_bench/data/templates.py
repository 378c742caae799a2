"""Prompt templates of tasks: compiled once, and rendered in Jinja's sandbox."""

from __future__ import annotations

import functools


def guard_templates() -> None:
    """Makes lm-eval render templates in Jinja's sandbox and keep compiled ones, in this process.

    A template comes with a task's YAML, and a plain Jinja environment would let it reach Python's
    own objects (`''.__class__`) and so run anything. In the sandbox that is an error. Compiling
    takes two milliseconds, and lm-eval does it anew for each document; a compiled template has no
    state: what it renders depends on the document alone.
    """
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    plain = utils.env
    if isinstance(plain, SandboxedEnvironment):
        return
    safe = SandboxedEnvironment(
        loader=plain.loader,
        undefined=plain.undefined,
        keep_trailing_newline=plain.keep_trailing_newline,
        trim_blocks=plain.trim_blocks,
        lstrip_blocks=plain.lstrip_blocks,
        autoescape=plain.autoescape,
    )
    safe.filters.update(plain.filters)
    safe.globals = {**plain.globals, **safe.globals}  # its own `range` has an end
    safe.tests.update(plain.tests)
    cached = functools.lru_cache(maxsize=1024)(safe.from_string)
    safe.from_string = cached  # type: ignore[method-assign, assignment]
    utils.env = safe
