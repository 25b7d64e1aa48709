"""A net's summary as text."""

from jaxcnn.models.paper_figures import PaperFigure
from jaxcnn.models.summary import Row, Summary


def format_table(summary: Summary, detail: bool = False) -> str:
    """The summary as text of at most 100 columns; `detail` adds the layers inside the modules."""
    rows = [row for row in summary.rows if detail or row.depth == 0]
    rows = [row for row in rows if row.kind != "Dropout"]
    head = ("layer", "output", "parameters", "MACs", "field", "stride", "paper")
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head) - 1)]
    lines = [summary.net, ""]
    for line in cells:
        left = line[0].ljust(widths[0])
        right = "  ".join(c.rjust(w) for c, w in zip(line[1:-1], widths[1:], strict=True))
        lines.append(f"{left}  {right}  {line[-1]}".rstrip())
    rule = "-" * max(map(len, lines))
    lines.insert(3, rule)
    return "\n".join([*lines, rule, *_totals(summary), *_notes(summary)])


def _cells(row: Row) -> tuple[str, ...]:
    name = "  " * row.depth + row.layer.rpartition("/")[-1] + (" +" if row.training_only else "")
    shape = "x".join(map(str, row.shape))
    counts = [f"{count:,}" if count else "" for count in (row.parameters, row.macs)]
    paper = ", ".join(_figure(figure) for figure in row.paper)
    return (name, shape, *counts, str(row.field.size), str(row.field.stride), paper)


def _figure(figure: PaperFigure) -> str:
    """The printed figure; marked, with ours where no column shows it, if the two differ."""
    if figure.of != "neurons":
        return figure.text if figure.agrees else f"{figure.text} *"
    return f"{figure.text} neurons" + ("" if figure.agrees else f" * ({figure.ours:,})")


def _totals(summary: Summary) -> list[str]:
    lines = []
    for of, label in (("parameters", "parameters"), ("macs", "MACs"), ("neurons", "neurons")):
        printed = [f for f in summary.paper if f.of == of]
        paper = "".join(f"  (paper: {_figure(f)}, {f.where})" for f in printed)
        lines.append(f"{label:<24}{getattr(summary, of):>16,}{paper}")
    if summary.training_parameters != summary.parameters:
        lines.append(f"{'parameters in training':<24}{summary.training_parameters:>16,}")
    lines.append(f"{'activations per image':<24}{summary.activations:>16,}")
    return lines


def _notes(summary: Summary) -> list[str]:
    notes = []
    if any(row.training_only for row in summary.rows):
        notes.append("+ in training only; not in the totals except where they say so")
    if any(not f.agrees for row in summary.rows for f in row.paper):
        notes.append("* printed so, but not what the paper's own layer table gives")
    return notes
