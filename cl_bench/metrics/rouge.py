"""ROUGE-L as TRACE computes it: the `rouge` 1.0.1 package's set-based summary level, arguments
swapped.

Source: TRACE calls `Rouge(metrics=["rouge-l"]).get_scores(reference, prediction)` and reports F,
so the package's "reference" argument is the prediction. Not ROUGE-L of Lin (2004) and not
`rouge-score`: words are counted as a set, case and punctuation are kept, only periods end a
sentence.

The package fills a dictionary with the whole table and walks it recursively. Here a row of the
table is one integer (bit-parallel LCS: Hyyrö, "Bit-parallel LCS-length computation revisited",
2004), and the walk visits only cells where it can turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isqrt

# Rows of the table kept at once, in bytes, before rows are recomputed from checkpoints instead.
_MAX_TABLE_BYTES = 64 << 20


def rouge_l(prediction: str, reference: str) -> float:
    """F of TRACE's ROUGE-L for one pair.

    Scale 0-1; equal texts give 1 less 5e-9 (the package adds 1e-8 to the denominator). Empty
    prediction or reference: 0. A text of periods only: 0, where the package raises ValueError (see
    `rouge_l_fails`). Not symmetric: ties are broken by position. Differs from `rouge-score`:
    permuted sentences and repetitions score 1, a change of case costs, Chinese and umlauts count.
    """
    rows = _sentences(prediction)
    columns = _sentences(reference)
    if not rows or not columns:
        return 0.0
    common = len(_union_of_common_words(rows, columns))
    recall = common / _distinct_words(rows)
    precision = common / _distinct_words(columns)
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))


def rouge_l_fails(prediction: str, reference: str) -> bool:
    """Whether TRACE's code raises ValueError: neither text empty, one of them only periods."""
    if not prediction or not reference:
        return False
    return not prediction.strip(".") or not reference.strip(".")


def _sentences(text: str) -> list[tuple[str, ...]]:
    """Distinct sentences as words, in order. A sentence of spaces is one empty word, as there.

    Repeated sentences are dropped: the union below is a set, so they cannot change it.
    """
    pieces = (piece for piece in text.split(".") if piece)
    return list(dict.fromkeys(tuple(piece.split()) or ("",) for piece in pieces))


def _distinct_words(sentences: Sequence[tuple[str, ...]]) -> int:
    return len({word for sentence in sentences for word in sentence})


def _union_of_common_words(
    rows: Sequence[tuple[str, ...]], columns: Sequence[tuple[str, ...]]
) -> set[str]:
    """Words of the longest common subsequence of any row sentence with any column sentence."""
    columns_with: dict[str, list[int]] = {}
    for index, column in enumerate(columns):
        for word in dict.fromkeys(column):
            columns_with.setdefault(word, []).append(index)
    union: set[str] = set()
    for row in rows:
        seen: set[int] = set()
        for word in dict.fromkeys(row):
            for index in columns_with.get(word, ()):
                # A pair whose shared words are all in the union already cannot add one.
                if word in union:
                    break
                if index not in seen:
                    seen.add(index)
                    union.update(common_words(row, columns[index]))
    return union


def common_words(row: Sequence[str], column: Sequence[str]) -> set[str]:
    """Distinct words of the longest common subsequence that the `rouge` package's walk finds.

    The walk starts at both ends: equal words go diagonally; otherwise up if the table is strictly
    larger there than to the left, else left. "Strictly larger above" holds exactly when the row's
    table value rises at that column, so one bit per cell is enough. Time O(len(row) * len(column)
    / word size), memory bounded by checkpoints; no recursion.
    """
    found: set[str] = set()
    end, j = len(row), len(column)
    while end and j and row[end - 1] == column[j - 1]:
        end, j = end - 1, j - 1
        found.add(row[end])
    row_words = set(row[:end])
    # A column word that is in no row never matches and never rises: dropping it changes nothing.
    kept = [word for word in column[:j] if word in row_words]
    shared = set(kept)
    if len(shared) < 2:
        return found | shared
    matches: dict[str, int] = {}
    for position, word in enumerate(kept):
        matches[word] = matches.get(word, 0) | 1 << position
    j = len(kept)
    for word, rises in _rows_from_last(row[:end], matches, j):
        hits = matches.get(word, 0)
        j = ((rises | hits) & ((1 << j) - 1)).bit_length()
        if not j or shared <= found:
            break
        if hits >> (j - 1) & 1:
            found.add(word)
            j -= 1
    return found


def _rows_from_last(
    row: Sequence[str], matches: dict[str, int], width: int
) -> Iterator[tuple[str, int]]:
    """(word, bits where the table rises in its row), last row first.

    Keeps all rows when they are small, else every sqrt-th and recomputes the ones between.
    """
    small = len(row) * width <= 8 * _MAX_TABLE_BYTES
    step = max(1, len(row) if small else isqrt(len(row)))
    starts = range(0, max(1, len(row)), step)
    full = (1 << width) - 1
    checkpoints = [full]
    for start in starts[:-1]:
        for falls in _falls(row[start : start + step], matches, checkpoints[-1], full):
            last = falls
        checkpoints.append(last)
    for start, first in zip(reversed(starts), reversed(checkpoints), strict=True):
        words = row[start : start + step]
        block = list(_falls(words, matches, first, full))
        for word, falls in zip(reversed(words), reversed(block), strict=True):
            yield word, falls ^ full


def _falls(words: Sequence[str], matches: dict[str, int], first: int, full: int) -> Iterator[int]:
    """Rows of the table: bit j is 0 where the value rises by one at column j, else 1."""
    falls = first
    for word in words:
        hits = falls & matches.get(word, 0)
        if hits:
            falls = ((falls + hits) | (falls - hits)) & full
        yield falls
