"""The loss term of a method, refused where it would train nothing."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from cl_bench.errors import UserError
from cl_bench.methods.base import Method
from cl_bench.training.loss import AnswerOutputs


def penalty_of(
    method: Method, batch: Mapping[str, Tensor], outputs: AnswerOutputs
) -> Tensor | None:
    """The sum of the parts' terms. Raises UserError for one without a gradient."""
    terms = []
    for part in getattr(method, "parts", [method]):
        term = part.penalty(batch, outputs)
        if term is None:
            continue
        if not isinstance(term, Tensor) or not term.requires_grad:
            raise UserError(
                f"method {part.name}: penalty returned a value without a gradient, which would "
                "change nothing: build it from outputs or from weights that this stage trains, or "
                "give what depends on weights alone to step.add in before_step; "
                "return None where there is no term"
            )
        terms.append(term)
    return sum(terms[1:], terms[0]) if terms else None
