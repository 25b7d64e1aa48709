"""Tables of means and standard deviations as plain text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from typing import Any


def mean_text(values: Sequence[float]) -> str:
    """`59.90 ± 0.42`: the mean and, from two values on, the standard deviation (n - 1)."""
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def csv_numbers(values: Sequence[float]) -> list[str]:
    """Mean and standard deviation, each empty where there are too few values."""
    mean = f"{statistics.fmean(values):.10g}" if values else ""
    return [mean, f"{statistics.stdev(values):.10g}" if len(values) > 1 else ""]


def csv_table(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def text_table(head: Sequence[str], body: Sequence[Sequence[str]], left: int = 1) -> str:
    """A plain text table: the first `left` columns are left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (head, *body)
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown_table(
    head: Sequence[str], body: Sequence[Sequence[str]], left: int = 1, words: int = 0
) -> str:
    """A Markdown table: the first `left` and the last `words` columns are left-aligned."""
    numbers = len(head) - left - words
    rule = [*["---"] * left, *["---:"] * numbers, *["---"] * words]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def bullets(lines: Iterable[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"* {line}" for line in lines)
