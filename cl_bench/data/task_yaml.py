"""What a task's YAML may hold: said in its own words, before lm-evaluation-harness fails on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from cl_bench.errors import nearest

SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
_STRUCTURE = {"class", "group", "tag", "task_list", "dataset_path", "include"}
"""Keys of a task's YAML that are no field of lm-eval's `TaskConfig`, or no longer."""


def shape_faults(config: Mapping[str, Any]) -> list[str]:
    """Keys of a task that lm-eval does not know, and values of another kind than it reads.

    Of groups only the members are looked at; a task that is a Python class of its own reads others.
    """
    if "class" in config:
        given = config["class"]
        no_class = "class: names a Python class, with `!function module.Class`"
        return [] if isinstance(given, type) else [no_class]
    if isinstance(members := config.get("task"), list) and "group" in config:
        wrong = [each for each in members if not isinstance(each, str | Mapping)]
        return [f"task: {each!r}: expected the name of a task or a group" for each in wrong]
    if not isinstance(members, str):
        return []
    return [*_unknown_keys(config), *_kinds(config), *_metrics(config), *_filters(config)]


def unfit(config: Mapping[str, Any], error: BaseException) -> list[str]:
    """Why lm-eval could not load a task, as far as its YAML tells: what it names that is not there.

    Asked after it failed: some tasks do without these.
    """
    if not isinstance(config.get("task"), str):
        return []
    found = []
    if isinstance(error, KeyError):
        found += [
            f"{key}: '{config[key]}' is no split of its data"
            for key in SPLITS
            if config.get(key) is not None and error.args == (config[key],)
        ]
    if isinstance(error, IndexError) and "size 0" in str(error):
        found.append("no documents are left to score (process_docs, or an empty split)")
    if isinstance(error, TypeError) and config.get("use_prompt") is None:
        found += [
            f"{k}: missing" for k in ("doc_to_text", "doc_to_target") if config.get(k) is None
        ]
    return found


def _unknown_keys(config: Mapping[str, Any]) -> Iterator[str]:
    from lm_eval.config.task import TaskConfig

    known = {field.name for field in fields(TaskConfig)} | _STRUCTURE
    for key in config:
        if key not in known:
            yield f"{key}: unknown key{nearest(str(key), known)}"


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_EXPECTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(SPLITS, (lambda v: isinstance(v, str), "the name of a split")),
    **dict.fromkeys(
        ("dataset_kwargs", "generation_kwargs", "metadata"),
        (lambda v: isinstance(v, Mapping), "keys and values"),
    ),
    **dict.fromkeys(
        ("description", "target_delimiter", "fewshot_delimiter", "gen_prefix"),
        (lambda v: isinstance(v, str) or callable(v), "a text"),
    ),
    **dict.fromkeys(
        ("custom_dataset", "process_docs", "process_results"),
        (callable, "a function, with `!function module.name`"),
    ),
    "dataset_path": (lambda v: isinstance(v, str), "a dataset's name or folder"),
    "doc_to_choice": (
        lambda v: isinstance(v, str | Mapping) or callable(v) or (_texts(v) and bool(v)),
        "a list of texts (yes, no, on and off in quotes), a template or a function",
    ),
    "num_fewshot": (lambda v: _count(v) and v >= 0, "0 or more"),
    "repeats": (lambda v: _count(v) and v > 0, "1 or more"),
    "metric_list": (
        lambda v: isinstance(v, list) and all(_named(m, "metric") for m in v),
        "a list of `{metric: ...}`",
    ),
    "filter_list": (
        lambda v: isinstance(v, list) and all(_filter(f) for f in v),
        "a list of `{name: ..., filter: [{function: ...}]}`",
    ),
}


def _named(value: Any, key: str) -> bool:
    given = value.get(key) if isinstance(value, Mapping) else None
    return isinstance(given, str) or callable(given)


def _filter(value: Any) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return False
    steps = value.get("filter")
    return isinstance(steps, list) and all(_named(step, "function") for step in steps)


def _kinds(config: Mapping[str, Any]) -> Iterator[str]:
    for key, (fits, expected) in _EXPECTED.items():
        value = config.get(key)
        if value is not None and not fits(value):
            yield f"{key}: {str(value)[:60]!r}: expected {expected}"
    if config.get("dataset_path") is None and config.get("custom_dataset") is None:
        yield "dataset_path: missing (where its documents are: json with data_files, ...)"
    settings = config.get("generation_kwargs")
    until = settings.get("until") if isinstance(settings, Mapping) else None
    if until is not None and not isinstance(until, str) and not _texts(until):
        yield f"generation_kwargs.until: {until!r}: expected a text or a list of texts"


def _metrics(config: Mapping[str, Any]) -> Iterator[str]:
    """Names that lm-eval does not know.

    For an unknown metric it would run code of that name from the Hub's evaluate library (or from
    the current folder); without an aggregation it would fail after everything is scored.
    """
    from lm_eval.api import metrics, registry

    assert metrics  # whose import registers them
    listed = config.get("metric_list")
    for each in listed if isinstance(listed, list) else []:
        given = each if isinstance(each, Mapping) else {}
        name, mean = given.get("metric"), given.get("aggregation")
        own = config.get("process_results") is not None  # which gives the metrics their names
        if isinstance(name, str) and not own:
            known = nearest(name, registry.metric_registry)
            if given.get("hf_evaluate"):
                yield (
                    f"metric_list: '{name}' with hf_evaluate is code from the Hub, which is not "
                    "run: use a metric of lm-eval, or a function (`!function module.name`)"
                )
            elif name not in registry.metric_registry:
                yield f"metric_list: unknown metric '{name}'{known}"
        if isinstance(mean, str) and mean not in registry.aggregation_registry:
            known = nearest(mean, registry.aggregation_registry)
            yield f"metric_list: unknown aggregation '{mean}'{known}"


def _filters(config: Mapping[str, Any]) -> Iterator[str]:
    """Filters that cannot be made: unknown names, arguments that they do not take, patterns."""
    from lm_eval import filters
    from lm_eval.api import registry

    assert filters
    listed = config.get("filter_list")
    for each in listed if isinstance(listed, list) and all(map(_filter, listed)) else []:
        for step in each["filter"]:
            name = step["function"]
            if isinstance(name, str) and name not in registry.filter_registry:
                known = nearest(name, registry.filter_registry)
                yield f"filter_list: unknown filter '{name}'{known}"
                continue
            try:
                settings = {key: value for key, value in step.items() if key != "function"}
                registry.get_filter(name)(**settings)
            except Exception as error:
                yield f"filter_list: {name}: {type(error).__name__}: {error}"
