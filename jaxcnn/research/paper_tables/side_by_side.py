"""A paper's table with the figures of runs here beside its own."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import statistics
from collections.abc import Sequence

from jaxcnn import models
from jaxcnn.evaluation import Protocol, Result, ensemble
from jaxcnn.models.summary import summarise
from jaxcnn.research.comparison.outcomes import markdown_table, text_table
from jaxcnn.research.evaluate_run import FinishedRun
from jaxcnn.research.paper_tables.matching import EnsembleMatch, ensemble_matches
from jaxcnn.research.paper_tables.tables import PARAMETERS, PaperTable, TableRow


@dataclasses.dataclass(frozen=True)
class RowResult:
    """What a row came to here.

    Attributes:
        values: a row a measure of `MINE`, a value a fusion; in percent, or millions of parameters.
        why: why there are none, or ''.
    """

    values: tuple[tuple[float, ...], ...] = ()
    why: str = ""


def our_measures(table: PaperTable) -> tuple[str, ...]:
    """The measures of ours: rates of whatever split the runs report."""
    return (PARAMETERS,) if table.measures == (PARAMETERS,) else ("top-1", "top-5")


def wanted_evaluations(
    table: PaperTable, runs: Sequence[FinishedRun]
) -> list[tuple[FinishedRun, Protocol, bool]]:
    """(run, protocol, whether its posteriors are needed) of all that the table asks of `runs`, a run's
    evaluations one after the other."""
    needed: dict[tuple[int, Protocol], bool] = {}
    if table.measures != (PARAMETERS,):
        for row in table.rows:
            for fusion_ in ensemble_matches(row, runs)[0]:
                for run, protocol in fusion_:
                    key = (runs.index(run), protocol)
                    needed[key] = needed.get(key, False) or len(fusion_) > 1
    ordered = sorted(needed.items(), key=lambda item: item[0][0])
    return [(runs[index], protocol, keep) for (index, protocol), keep in ordered]


def is_missing(run: FinishedRun, protocol: Protocol, keep: bool) -> bool:
    """Whether an evaluation that a table asks for is still to be done."""
    return (run.saved_posteriors(protocol) if keep else run.known_result(protocol)) is None


def row_result(table: PaperTable, row: TableRow, runs: Sequence[FinishedRun]) -> RowResult:
    """What `row` comes to by the results that `runs` hold."""
    if table.measures == (PARAMETERS,):
        (part,) = row.parts
        net = models.build(part.net, column=part.column)
        return RowResult(((summarise(net).parameters / 1e6,),))
    found, why = ensemble_matches(row, runs)
    if not found:
        return RowResult(why=why)
    results = [_result(fusion_) for fusion_ in found]
    return RowResult(
        (
            tuple(100 * (1 - result.top1) for result in results),
            tuple(100 * (1 - result.top5) for result in results),
        )
    )


def _result(parts: EnsembleMatch) -> Result:
    """The rates of a fusion, all of whose parts are judged."""
    if len(parts) == 1:
        ((run, protocol),) = parts
        row = dict(run.known_result(protocol) or {})
        row.pop("step")
        return Result(**row)
    kept = [run.saved_posteriors(protocol) for run, protocol in parts]
    return ensemble.error_rates([one for one in kept if one is not None])


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """A paper's table and what is beside it, a row each."""

    table: PaperTable
    rows: tuple[RowResult, ...]
    facts: tuple[str, ...]

    def header(self) -> list[str]:
        """Column titles."""
        paper = [f"paper {measure}" for measure in self.table.measures]
        here = [f"ours {measure}" for measure in our_measures(self.table)]
        return [*self.table.columns, *paper, *here, "n", "note"]

    def body(self) -> list[list[str]]:
        """The cells as text."""
        lines = []
        for row, own in zip(self.table.rows, self.rows, strict=True):
            printed = [_printed(value) for value in row.paper]
            note = "; ".join(text for text in (own.why, row.note) if text)
            note = row.note if own.why == row.note else note
            values = [_text(v) for v in own.values] or ["-"] * len(our_measures(self.table))
            count = str(len(own.values[0])) if own.values else "0"
            lines.append([*row.cells, *printed, *values, count, note])
        return lines

    def text(self) -> str:
        """For a screen."""
        body = self.body()
        lines = text_table(
            self.header()[:-1], [line[:-1] for line in body], left=len(self.table.columns)
        ).splitlines()
        notes = ["", "", *(line[-1] for line in body)]
        plain = "\n".join(f"{a}  {b}".rstrip() for a, b in zip(lines, notes, strict=True))
        return "\n\n".join([self.table.title, plain, "\n".join(self.facts)])

    def markdown(self) -> str:
        """For a page."""
        points = "\n".join(f"* {fact}" for fact in self.facts)
        table = markdown_table(self.header(), self.body(), left=len(self.table.columns), words=1)
        return f"# {self.table.title}\n\n{table}\n\n{points}\n"

    def csv(self) -> str:
        """With numbers bare: an empty field is one that is not there."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        here = [
            f"ours {m}{suffix}" for m in our_measures(self.table) for suffix in ("", " deviation")
        ]
        paper = [f"paper {measure}" for measure in self.table.measures]
        writer.writerow([*self.table.columns, *paper, *here, "n", "note"])
        for row, own, line in zip(self.table.rows, self.rows, self.body(), strict=True):
            numbers = ["" if value is None else f"{value:g}" for value in row.paper]
            for values in own.values or ((),) * len(our_measures(self.table)):
                numbers.append(f"{statistics.fmean(values):.10g}" if values else "")
                numbers.append(f"{statistics.stdev(values):.10g}" if len(values) > 1 else "")
            writer.writerow([*row.cells, *numbers, *line[-2:]])
        return stream.getvalue()


def check_same_data(runs: Sequence[FinishedRun]) -> None:
    """Raises:
    PosteriorsError: the runs are not judged on the same images and classes.
    """
    of = lambda run: (  # noqa: E731
        f"{len(run.data.class_names)} classes and {len(run.data.evaluation):,} images of "
        f"{run.data.eval_split} of {run.config['data']['source']}"
    )
    for run in runs[1:]:
        if of(run) != of(runs[0]) or run.data.class_names != runs[0].data.class_names:
            raise ensemble.PosteriorsError(
                f"one table cannot hold both {runs[0].folder.name}, judged on {of(runs[0])}, and "
                f"{run.folder.name}, judged on {of(run)}: give runs of one data set"
            )


def side_by_side(table: PaperTable, runs: Sequence[FinishedRun]) -> SideBySide:
    """The table with what `runs` hold; every evaluation that it wants is done."""
    rows = tuple(row_result(table, row, runs) for row in table.rows)
    return SideBySide(table, rows, tuple(_facts(table, runs)))


def _printed(value: float | None) -> str:
    """As papers print errors, with one decimal or two; millions as whole numbers."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:g}"
    return f"{value:.1f}" if math.isclose(value, round(value, 1)) else f"{value:.2f}"


def _text(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    mean = f"{statistics.fmean(values):.2f}"
    return mean if math.isnan(spread) else f"{mean} ± {spread:.2f}"


def _facts(table: PaperTable, runs: Sequence[FinishedRun]) -> list[str]:
    """What the figures beside the paper's are of."""
    if table.measures == (PARAMETERS,):
        return ["Ours are counted from the layer tables; no run is needed."]
    used = list(dict.fromkeys(id(run) for run, *_ in wanted_evaluations(table, runs)))
    lines = [
        "Errors in percent; ± is the standard deviation (n - 1) over n runs, or n sets of runs where a row "
        "averages several nets. The paper's are of ImageNet.",
        "Scales of runs whose images are not of 224 pixels are the paper's in proportion.",
    ]
    for run in runs:
        lines.append(
            f"{describe_run(run)}" if id(run) in used else f"not in this table: {run.folder.name}"
        )
    return lines


def describe_run(run: FinishedRun) -> str:
    """One line: what net on what data, and how it was trained."""
    model, augment, data = run.config["model"], run.config["augment"], run.data
    low, high = augment["scale"]
    s = (
        ""
        if augment["sampling"] == "random_resized_crop"
        else f", S {low}" + ("" if low == high else f" to {high}")
    )
    net = f"{model['name']} {model.get('column', '')}".strip()
    return (
        f"{run.folder.name}: {net}, width {model['width']:g}, images of {run.image_size}{s}, seed "
        f"{run.config['seed']}, {run.config['epochs']:g} epochs of {len(data.train):,} images of "
        f"{run.config['data']['source']}, judged on {len(data.evaluation):,} of {data.eval_split}, "
        f"{len(data.class_names)} classes"
    )
