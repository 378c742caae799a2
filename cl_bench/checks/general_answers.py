"""Before a run: whether General's benchmarks can be answered, and what their texts hold.

A model need not answer a benchmark as its gold text is written, so a filter that looks for more
than that (the sentence in which a chain of thought ends) is no fault. Tokens, delimiter and stop
strings are: what they take from a gold answer they take from a model's too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cl_bench.checks.gold_answers import NEEDED, NEEDED_OF_CUT, golds_of, told
from cl_bench.checks.perfect_generation import generator, model_eos
from cl_bench.checks.reachable import AnyForm, Reach, reach
from cl_bench.data.examples import seeded_subset
from cl_bench.data.special_tokens import SpecialTokens, named
from cl_bench.data.tasks import defining_file

if TYPE_CHECKING:
    from cl_bench.checks.found import Preflight

MOST = 200
"""Documents of a benchmark whose texts are looked at, in equal shares of its members."""
ANSWERED = 24
"""The same whose gold answers are scored: lm-eval compiles its templates anew for every one."""


def check_general(found: Preflight) -> Iterator[str]:
    """Faults of benchmarks whose gold answers lose their score; odd tokens of texts are noted."""
    eos = model_eos(found.model_path)
    for name, members in found.suite.general.items():
        _note_tokens(found, name, members)
        for leaf, task in members.items():
            if task.OUTPUT_TYPE != "generate_until" or getattr(task, "UNSAFE_CODE", False):
                continue
            ids = _some(found.suite.documents.get(leaf, ()), leaf, ANSWERED, members)
            perfect = generator(task, found.tokenizer, eos, None)
            try:
                golds = golds_of(task, task.eval_docs, ids)
                reached = reach(task, golds, perfect, AnyForm(task))
            except Exception:  # its gold text is no answer that its metric can read
                continue
            fault = _judged(found, leaf, reached)
            if fault and found.config.allow_unreachable:
                found.note(f"{fault} (accepted by allow_unreachable)")
            elif fault:
                yield (
                    f"{fault}, leave it out of eval.general.tasks, or accept it with "
                    "`allow_unreachable: true` at the top of the config"
                )


def _judged(found: Preflight, leaf: str, reached: Reach) -> str | None:
    """A fault where tokens, delimiter or stop strings take too much; less of it is noted.

    Gold texts are often longer than an answer must be: what a limit takes is noted, if it is most.
    """
    if reached.checked and reached.full <= 0 and not reached.lower_is_better:
        found.note(
            f"{leaf}: its metric {reached.metric} gives 0 to the gold texts of all "
            f"{reached.checked} documents that were looked at"
        )
        return None
    if not reached.losses:
        return None
    cut = [loss for loss in reached.losses if loss.cause == "limit"]
    share = reached.share
    if not reached.lower_is_better:
        share += sum(loss.full - loss.score for loss in cut) / reached.full
    if len(cut) == len(reached.losses) and reached.share >= NEEDED_OF_CUT:
        return None
    file = defining_file(leaf, found.config.task_paths)
    where = "its YAML" if file is None else str(file)
    said = f"{leaf}: {told(reached, 'test', where, trained=False)}"
    if share < NEEDED:
        return said
    found.note(said)
    return None


def _note_tokens(found: Preflight, name: str, members: Mapping[str, Any]) -> None:
    """Special and unknown tokens in documents and in those that shots are drawn from."""
    documents: list[str] = []
    shots: list[str] = []
    for leaf, task in members.items():
        ids = _some(found.suite.documents.get(leaf, ()), leaf, MOST, members)
        documents += ["\n".join(_texts(task.eval_docs[i])) for i in ids]
        rows = _shots(task)
        ids = _some(range(len(rows)), leaf, MOST, members)
        shots += ["\n".join(_texts(rows[i])) for i in ids]
    for what, texts in ((f"{name}: documents", documents), (f"{name}: shots", shots)):
        for line in odd_tokens(found.tokenizer, what, texts):
            found.note(line)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a document's fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def odd_tokens(tokenizer: Any, what: str, texts: Sequence[str]) -> Iterator[str]:
    """Lines about texts with special tokens, or with characters that no token stands for."""
    begin = tokenizer.bos_token or ""
    holding, tokens = SpecialTokens(tokenizer).count(
        text.lstrip().removeprefix(begin) for text in texts
    )
    if holding:
        yield (
            f"{what}: {holding} of {len(texts)} hold special tokens ({named(tokens)}), which the "
            "model reads as such"
        )
    unknown = tokenizer.unk_token_id
    if unknown is None or not texts or tokenizer.unk_token_id == tokenizer.eos_token_id:
        return
    plain = [text.replace(str(tokenizer.unk_token), "") for text in texts]
    encoded = tokenizer(plain, add_special_tokens=False, verbose=False)["input_ids"]
    if lost := sum(unknown in ids for ids in encoded):
        yield (
            f"{what}: {lost} of {len(texts)} hold characters that the tokenizer does not know "
            f"(`{tokenizer.unk_token}` stands for them)"
        )


def _shots(task: Any) -> Sequence[Any]:
    """The documents that a task's examples in the prompt come from; none where it has none."""
    if not task.config.num_fewshot:
        return ()
    try:
        rows = task.fewshot_docs()
        return rows if hasattr(rows, "__getitem__") else list(rows)
    except Exception:  # of a class that makes its own prompts
        return ()


def _some(ids: Iterable[int], leaf: str, most: int, members: Mapping[str, Any]) -> list[int]:
    """A leaf's equal share of `most`, at least one; seeded."""
    every = list(ids)
    share = max(1, most // len(members))
    return [every[i] for i in seeded_subset(len(every), share, 0, "gold", leaf)]
