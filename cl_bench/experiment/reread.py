"""The words of documents whose records hold ids and hashes, read again from their tasks.

Licences forbid storing questions, and a record has its prompt's hash: what is read is shown only
where it is what was asked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_bench.data.examples import gold_text, own_prompt
from cl_bench.data.loading import load_task_set
from cl_bench.data.own_files.task import StageData
from cl_bench.data.tasks import general_name
from cl_bench.errors import RunError, UserError
from cl_bench.evaluation.harness import FEWSHOT_SEED
from cl_bench.evaluation.probes.questions import gold_choice
from cl_bench.experiment.rescore import recorded_experiment
from cl_bench.identity.bindings import scored_data
from cl_bench.results.compare import Key
from cl_bench.results.places import Place
from cl_bench.results.same_documents import made_of
from cl_bench.results.shown_documents import Wording
from cl_bench.store.folders import read_records

Words = dict[Key, Wording]
Reasons = dict[str, str]


def reread(
    place: Place, wanted: Mapping[str, Sequence[int]], data_root: Path | None = None
) -> tuple[Words, Reasons]:
    """The words of these documents (ids by leaf task), and by task why there are none.

    Only the tasks that are named are loaded, as the experiment of the place has them; `data_root`
    says where the data is now. Their rows must be those that were scored, and the hash of each
    prompt the recorded one.
    """
    words: Words = {}
    reasons: Reasons = {}
    for leaf, task in _loaded(place, list(wanted), data_root, reasons):
        records = {r["doc_id"]: r for r in read_records(_file(place, leaf))}
        if fault := _other_rows(place, leaf, task, list(records)):
            reasons[leaf] = fault
            continue
        found = _words(task, wanted[leaf], records)
        words |= {(leaf, document): wording for document, wording in found.items()}
        if missing := len(wanted[leaf]) - len(found):
            reasons[leaf] = (
                f"{missing} of {len(wanted[leaf])} documents have another prompt than was recorded"
            )
    return words, reasons


def _file(place: Place, leaf: str) -> Path:
    return place.path / "predictions" / f"{leaf}.jsonl"


def _loaded(
    place: Place, leaves: Sequence[str], data_root: Path | None, reasons: Reasons
) -> Iterator[tuple[str, Any]]:
    """The tasks that can be loaded; the others get their reason."""
    root: str | Path | None = data_root
    paths: Sequence[str | Path] = ()
    protocol = "lm-eval"
    own: Mapping[str, StageData] = {}
    try:
        if (folder := place.experiment) is not None:
            experiment = recorded_experiment(folder, data_root)
            config, own = experiment.config, experiment.own
            root, paths = config.data_root, config.task_paths
            protocol = config.eval.general.protocol
    except (RunError, UserError) as error:
        reasons |= dict.fromkeys(leaves, f"its config cannot be read ({error})")
        return
    except KeyError as error:
        reasons |= dict.fromkeys(leaves, f"the config of its experiment has no {error}")
        return
    for owner, members in _owners(place, leaves).items():
        try:
            name = general_name(owner, paths, protocol) if owner in place.benchmarks() else owner
            found = load_task_set([name], root, paths, own=own).tasks
        except UserError as error:
            reasons |= dict.fromkeys(members, error.faults[0])
            continue
        for leaf in members:
            if leaf in found:
                yield leaf, found[leaf]
            else:
                reasons[leaf] = f"{name} has no such member any more"


def _owners(place: Place, leaves: Sequence[str]) -> dict[str, list[str]]:
    """The leaves by what is loaded: a member of a group has its data from the group's YAML."""
    owner = {leaf: task for task, names in place.tasks().items() for leaf in names}
    found: dict[str, list[str]] = {}
    for leaf in leaves:
        found.setdefault(owner.get(leaf, leaf), []).append(leaf)
    return found


def _other_rows(place: Place, leaf: str, task: Any, ids: Sequence[int]) -> str | None:
    """That the rows are not those that were scored: choices are no part of a prompt's hash."""
    if max(ids) >= len(task.eval_docs):
        return f"document {max(ids)} is not in the data any more: other rows than were scored"
    recorded = made_of(place.path).get("data", {}).get(leaf, {}).get("test")
    now = scored_data({leaf: task}, {leaf: ids})[leaf]["test"]
    return None if recorded in (None, now) else "the data has other rows than were scored"


def _words(
    task: Any, wanted: Sequence[int], records: Mapping[int, Mapping[str, Any]]
) -> dict[int, Wording]:
    """Of those documents whose prompt has the recorded hash."""
    found = dict(_alike(task, wanted, records))
    if len(found) < len(wanted) and task.config.num_fewshot:
        # Shots that are drawn depend on the documents before.
        found = {k: v for k, v in _alike(task, list(records), records) if k in set(wanted)}
    return found


def _alike(
    task: Any, documents: Sequence[int], records: Mapping[int, Mapping[str, Any]]
) -> Iterator[tuple[int, Wording]]:
    from lm_eval.utils import hash_string

    task.set_fewshot_seed(FEWSHOT_SEED)
    for i in documents:
        doc = task.eval_docs[i]
        first = _asked(task, doc, i)
        question = _of_fields(functools.partial(own_prompt, task, doc))
        hashes = {hash_string(first), *([] if question is None else [hash_string(question)])}
        if records[i]["prompt_hash"] in hashes:  # with worked examples: that of the question
            yield i, _wording(task, doc, first, question)


def _asked(task: Any, doc: Any, document: int) -> str:
    """The first request's prompt, as lm-eval builds it."""
    context = task.fewshot_context(
        doc,
        num_fewshot=task.config.num_fewshot or 0,
        system_instruction=None,
        apply_chat_template=False,
        fewshot_as_multiturn=False,
        chat_template=None,
        gen_prefix=task.doc_to_prefix(doc),
    )
    metadata = (task.config.task, document, task.config.repeats)
    made = task.construct_requests(
        doc=doc, ctx=context, metadata=metadata, apply_chat_template=False, chat_template=None
    )
    return str((made[0] if isinstance(made, list) else made).args[0])


def _wording(task: Any, doc: Any, prompt: str, question: str | None) -> Wording:
    if question is None:
        question = prompt
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = tuple(str(choice) for choice in task.doc_to_choice(doc))
        number = gold_choice(task, {"doc": doc})
        gold = None if number is None else choices[number]
        return Wording(question, prompt, choices, gold, number)
    return Wording(question, prompt, gold=_of_fields(functools.partial(gold_text, task, doc)))


def _of_fields(read: Callable[[], str]) -> str | None:
    """None for a task that is made by a Python class, which need not have the fields of a YAML."""
    try:
        return read()
    except Exception:
        return None
