"""A paper's table with the results of runs in further columns."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn import models
from jaxcnn.evaluation import Protocol, Result, ensemble
from jaxcnn.models.summary import summarise
from jaxcnn.research.comparison.outcomes import markdown_table, text_table
from jaxcnn.research.evaluate_run import FinishedRun
from jaxcnn.research.paper_tables.matching import EnsembleMatch, ensemble_matches
from jaxcnn.research.paper_tables.tables import PARAMETERS, PaperTable, TableRow


@dataclasses.dataclass(frozen=True)
class RowResult:
    """Our results for a row of the paper's table.

    Attributes:
        values: for each of `our_measures` a value per ensemble; in percent, or millions of parameters.
        reason: why there are none, or ''.
    """

    values: tuple[tuple[float, ...], ...] = ()
    reason: str = ""


def our_measures(table: PaperTable) -> tuple[str, ...]:
    """The measures of our columns, on the split that the runs report."""
    return (PARAMETERS,) if table.measures == (PARAMETERS,) else ("top-1", "top-5")


def wanted_evaluations(
    table: PaperTable, runs: Sequence[FinishedRun]
) -> list[tuple[FinishedRun, Protocol, bool]]:
    """(run, protocol, whether its posteriors are needed) of all evaluations that the table needs, in the
    order of `runs`."""
    needed: dict[tuple[int, Protocol], bool] = {}
    if table.measures != (PARAMETERS,):
        for row in table.rows:
            for match in ensemble_matches(row, runs)[0]:
                for run, protocol in match:
                    key = (runs.index(run), protocol)
                    needed[key] = needed.get(key, False) or len(match) > 1
    ordered = sorted(needed.items(), key=lambda item: item[0][0])
    return [(runs[index], protocol, keep) for (index, protocol), keep in ordered]


def is_missing(run: FinishedRun, protocol: Protocol, keep: bool) -> bool:
    """Whether an evaluation of `wanted_evaluations` is still to be done."""
    return (run.saved_posteriors(protocol) if keep else run.known_result(protocol)) is None


def row_result(table: PaperTable, row: TableRow, runs: Sequence[FinishedRun]) -> RowResult:
    """Our results for `row`; its evaluations must be done."""
    if table.measures == (PARAMETERS,):
        (part,) = row.parts
        net = models.build(part.net, column=part.column)
        return RowResult(((summarise(net).parameters / 1e6,),))
    matches, reason = ensemble_matches(row, runs)
    if not matches:
        return RowResult(reason=reason)
    results = [_ensemble_result(match) for match in matches]
    top1 = tuple(100 * (1 - result.top1) for result in results)
    return RowResult((top1, tuple(100 * (1 - result.top5) for result in results)))


def _ensemble_result(match: EnsembleMatch) -> Result:
    if len(match) == 1:
        ((run, protocol),) = match
        row = dict(run.known_result(protocol) or {})
        row.pop("step")
        return Result(**row)
    saved = [run.saved_posteriors(protocol) for run, protocol in match]
    return ensemble.error_rates([posteriors for posteriors in saved if posteriors is not None])


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """A paper's table, our results for each row, and facts about the runs."""

    table: PaperTable
    rows: tuple[RowResult, ...]
    facts: tuple[str, ...]

    def header(self) -> list[str]:
        """Column titles."""
        paper = [f"paper {measure}" for measure in self.table.measures]
        ours = [f"ours {measure}" for measure in our_measures(self.table)]
        return [*self.table.columns, *paper, *ours, "n", "note"]

    def body(self) -> list[list[str]]:
        """The cells as text."""
        lines = []
        for row, ours in zip(self.table.rows, self.rows, strict=True):
            printed = [_printed(value) for value in row.paper]
            note = "; ".join(dict.fromkeys(text for text in (ours.reason, row.note) if text))
            values = [mean_text(v) for v in ours.values] or ["-"] * len(our_measures(self.table))
            count = str(len(ours.values[0])) if ours.values else "0"
            lines.append([*row.cells, *printed, *values, count, note])
        return lines

    def text(self) -> str:
        """As plain text."""
        body = self.body()
        lines = text_table(
            self.header()[:-1], [line[:-1] for line in body], left=len(self.table.columns)
        ).splitlines()
        notes = ["", "", *(line[-1] for line in body)]
        plain = "\n".join(f"{a}  {b}".rstrip() for a, b in zip(lines, notes, strict=True))
        return "\n\n".join([self.table.title, plain, "\n".join(self.facts)])

    def markdown(self) -> str:
        """As a Markdown page."""
        points = "\n".join(f"* {fact}" for fact in self.facts)
        table = markdown_table(self.header(), self.body(), left=len(self.table.columns), words=1)
        return f"# {self.table.title}\n\n{table}\n\n{points}\n"

    def csv(self) -> str:
        """As CSV with plain numbers; missing values are empty."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        measures = our_measures(self.table)
        ours = [f"ours {m}{suffix}" for m in measures for suffix in ("", " deviation")]
        paper = [f"paper {measure}" for measure in self.table.measures]
        writer.writerow([*self.table.columns, *paper, *ours, "n", "note"])
        for row, result, line in zip(self.table.rows, self.rows, self.body(), strict=True):
            numbers = ["" if value is None else f"{value:g}" for value in row.paper]
            for values in result.values or ((),) * len(measures):
                numbers += csv_numbers(values)
            writer.writerow([*row.cells, *numbers, *line[-2:]])
        return stream.getvalue()


def check_same_data(runs: Sequence[FinishedRun]) -> None:
    """Raises:
    PosteriorsError: the runs are not evaluated on the same images and classes.
    """

    def data_text(run: FinishedRun) -> str:
        return (
            f"{len(run.data.class_names)} classes and {len(run.data.evaluation):,} images of "
            f"{run.data.eval_split} of {run.config['data']['source']}"
        )

    for run in runs[1:]:
        first = runs[0]
        same_classes = run.data.class_names == first.data.class_names
        if data_text(run) != data_text(first) or not same_classes:
            raise ensemble.PosteriorsError(
                f"one table cannot hold both {first.folder.name}, evaluated on {data_text(first)}, and "
                f"{run.folder.name}, evaluated on {data_text(run)}: give runs of one data set"
            )


def side_by_side(table: PaperTable, runs: Sequence[FinishedRun]) -> SideBySide:
    """The table with the results of `runs`; all of `wanted_evaluations` must be done."""
    rows = tuple(row_result(table, row, runs) for row in table.rows)
    return SideBySide(table, rows, tuple(_facts(table, runs)))


def mean_text(values: Sequence[float]) -> str:
    """`59.90 ± 0.42`: mean and, from two values on, standard deviation."""
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def csv_numbers(values: Sequence[float]) -> list[str]:
    """Mean and standard deviation, each empty where there are too few values."""
    mean = f"{statistics.fmean(values):.10g}" if values else ""
    return [mean, f"{statistics.stdev(values):.10g}" if len(values) > 1 else ""]


def net_name(model: Mapping[str, Any]) -> str:
    """`vgg D`, from a config's `model` section."""
    return f"{model['name']} {model.get('column', '')}".strip()


def scale_text(config: Mapping[str, Any]) -> str:
    """`, S 256 to 512`: the training scales of a config; '' where crops are not of a rescaled image."""
    low, high = config["augment"]["scale"]
    if config["augment"]["sampling"] == "random_resized_crop":
        return ""
    return f", S {low}" + ("" if low == high else f" to {high}")


def describe_run(run: FinishedRun) -> str:
    """One line: net, data and training of a run."""
    config, data = run.config, run.data
    return (
        f"{run.folder.name}: {net_name(config['model'])}, width {config['model']['width']:g}, images of "
        f"{run.image_size}{scale_text(config)}, seed {config['seed']}, {config['epochs']:g} epochs of "
        f"{len(data.train):,} images of {config['data']['source']}, evaluated on "
        f"{len(data.evaluation):,} of {data.eval_split}, {len(data.class_names)} classes"
    )


def _printed(value: float | None) -> str:
    """As papers print errors, with one decimal or two; millions as whole numbers."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:g}"
    return f"{value:.1f}" if math.isclose(value, round(value, 1)) else f"{value:.2f}"


def _facts(table: PaperTable, runs: Sequence[FinishedRun]) -> list[str]:
    if table.measures == (PARAMETERS,):
        return ["Ours are counted from the layer tables; no run is needed."]
    used = {id(run) for run, *_ in wanted_evaluations(table, runs)}
    return [
        "Errors in percent; ± is the standard deviation (n - 1) over n runs, or n sets of runs where a row "
        "averages several nets. The paper's are of ImageNet.",
        "Scales of runs whose images are not of 224 pixels are the paper's in proportion.",
        *(
            describe_run(run) if id(run) in used else f"not in this table: {run.folder.name}"
            for run in runs
        ),
    ]
