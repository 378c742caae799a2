"""Code similarity as TRACE computes it for Py150: literals put back, then fuzzywuzzy's `ratio`.

Source: TRACE (post-processing after CodeXGLUE's code completion) and fuzzywuzzy 0.18.0, whose
number depends on whether python-Levenshtein is installed. TRACE's requirements do not install it.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal, get_args

Backend = Literal["difflib", "levenshtein"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

_EMPTY_LITERALS = (("<NUM_LIT>", "0"), ("<STR_LIT>", ""), ("<CHAR_LIT>", ""))
_LITERAL = re.compile(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", re.DOTALL)


def restore_literals(code: str) -> str:
    """`<NUM_LIT>` becomes 0, the other empty markers nothing, `<STR_LIT:x>` and its kin x.

    Markers are found once, left to right, up to their first `>`; then each is replaced wherever it
    stands, in that order. The difference to one substitution shows only where markers are nested.
    """
    for marker, value in _EMPTY_LITERALS:
        code = code.replace(marker, value)
    for match in list(_LITERAL.finditer(code)):
        code = code.replace(match.group(0), match.group(1))
    return code


def similarity(prediction: str, reference: str, backend: Backend = "difflib") -> float:
    """Similarity of two lines of code, an integer from 0 to 100 as a float.

    Scale 0-100; the mean over documents is TRACE's `similarity`. Equal texts give 100 unless
    nothing is left after `restore_literals`: then 0 on either side, so `<STR_LIT>` against itself
    scores 0. `difflib` (default: what TRACE's requirements install) adds up the longest common
    blocks, so it is never above `levenshtein` but for rounding, not symmetric, and for a reference
    of 200 characters and more it ignores frequent ones (`autojunk`). `levenshtein` is the indel
    similarity (longest common subsequence) that `rapidfuzz.fuzz.ratio` computes, rounded.
    """
    ours = restore_literals(prediction)
    theirs = restore_literals(reference)
    if not ours or not theirs:
        return 0.0
    if ours == theirs:
        return 100.0
    return float(round(100 * _ratio(ours, theirs, backend)))


def _ratio(ours: str, theirs: str, backend: Backend) -> float:
    if backend == "levenshtein":
        from rapidfuzz.distance import Indel

        return Indel.normalized_similarity(ours, theirs)
    return SequenceMatcher(None, ours, theirs).ratio()
