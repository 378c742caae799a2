"""A report's tables in LaTeX, with the rules of booktabs: to be read with \\input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cl_bench.report.document import Block, Cell, Number, Table

HEAD = r"""% \usepackage{booktabs,graphicx} in the preamble; without booktabs: plain lines
\providecommand{\toprule}{\hline}
\providecommand{\midrule}{\hline}
\providecommand{\bottomrule}{\hline}"""
_SIGNS = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "α": r"$\alpha$",
    "–": "--",
    "…": r"\ldots{}",
    "×": r"$\times$",
}


def as_latex(blocks: Sequence[Block]) -> str:
    """A table environment for each table, one below the other."""
    tables = [block for block in blocks if isinstance(block, Table)]
    return "\n\n".join([HEAD, *("\n".join(_lines(table)) for table in tables)]) + "\n"


def _lines(table: Table) -> Iterator[str]:
    yield r"\begin{table}"
    yield r"\centering"
    if caption := " ".join(part for part in (escape(table.caption), _signs_used(table)) if part):
        yield rf"\caption{{{caption}}}"
    # Never wider than the text, and never blown up to it.
    yield r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    yield rf"\begin{{tabular}}{{{''.join(column.align[0] for column in table.columns)}}}"
    yield r"\toprule"
    yield f"{' & '.join(escape(column.title) for column in table.columns)} \\\\"
    yield r"\midrule"
    for row in table.rows:
        yield f"{' & '.join(_cell(cell) for cell in row)} \\\\"
    yield r"\bottomrule"
    yield r"\end{tabular}}"
    yield r"\end{table}"


def _signs_used(table: Table) -> str:
    """What ± and ? are in this table."""
    numbers = [cell for row in table.rows for cell in row if isinstance(cell, Number)]
    kinds = {cell.of for cell in numbers if cell.spread is not None}
    words = {
        "documents": "a standard error over documents",
        "seeds": "a standard deviation over seeds",
    }
    found = []
    if kinds:
        said = " or ".join(words[kind] for kind in ("documents", "seeds") if kind in kinds)
        found.append(rf"$\pm$ is {said}.")
    if any(cell.resolved is False for cell in numbers):
        found.append(r"A question mark: not resolved at 5\,\% after Holm's correction.")
    if any(cell.best for cell in numbers):
        found.append("Best in bold.")
    return " ".join(found)


def _cell(cell: Cell) -> str:
    if not isinstance(cell, Number):
        return escape(cell)
    if cell.value is None:
        return "--"
    value = f"{cell.value:{'+' if cell.signed else ''}.{cell.digits}f}"
    body = f"\\mathbf{{{value}}}" if cell.best else value
    if cell.spread is not None:
        body += rf" \pm {cell.spread:.{cell.digits}f}"
    mark = r"^{?}" if cell.resolved is False else ""
    return f"${body}{mark}$"


def escape(text: str) -> str:
    """Any text as LaTeX prints it; what its fonts may lack by number."""
    signs = (_SIGNS.get(sign, sign) for sign in " ".join(text.split()))
    return "".join(sign if sign.isascii() else f"U+{ord(sign):04X}" for sign in signs)
