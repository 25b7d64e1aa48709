"""A paper's table with the results of runs in further columns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn import models
from jaxcnn.evaluation import Protocol, Result, ensemble
from jaxcnn.models.summary import summarise
from jaxcnn.research.evaluate_run import FinishedRun
from jaxcnn.research.paper_tables.matching import EnsembleMatch, ensemble_matches
from jaxcnn.research.paper_tables.tables import PARAMETERS, PaperTable, TableRow
from jaxcnn.research.text_tables import (
    bullets,
    csv_numbers,
    csv_table,
    markdown_table,
    mean_text,
    text_table,
)


@dataclasses.dataclass(frozen=True)
class RowResult:
    """Our results for a row of the paper's table."""

    # For each of our columns a value per ensemble; in percent, or millions of parameters.
    values: tuple[tuple[float, ...], ...] = ()
    reason: str = ""  # why there are none


def wanted_evaluations(
    table: PaperTable, runs: Sequence[FinishedRun]
) -> list[tuple[FinishedRun, Protocol, bool]]:
    """(run, protocol, whether its posteriors are needed) of all evaluations that the table needs, in the
    order of `runs`."""
    if table.is_of_parameters:
        return []
    needed: dict[tuple[int, Protocol], bool] = {}
    for match in (match for row in table.rows for match in ensemble_matches(row, runs)[0]):
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
    if table.is_of_parameters:
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

    @property
    def our_measures(self) -> tuple[str, ...]:
        """The measures of our columns, on the split that the runs report."""
        return (PARAMETERS,) if self.table.is_of_parameters else ("top-1", "top-5")

    def header(self) -> list[str]:
        """Column titles."""
        paper = [f"paper {measure}" for measure in self.table.measures]
        ours = [f"ours {measure}" for measure in self.our_measures]
        return [*self.table.columns, *paper, *ours, "n", "note"]

    def body(self) -> list[list[str]]:
        """The cells as text."""
        lines = []
        for row, ours in zip(self.table.rows, self.rows, strict=True):
            printed = [_printed(value) for value in row.paper]
            note = "; ".join(dict.fromkeys(text for text in (ours.reason, row.note) if text))
            values = [mean_text(v) for v in ours.values] or ["-"] * len(self.our_measures)
            count = str(len(ours.values[0])) if ours.values else "0"
            lines.append([*row.cells, *printed, *values, count, note])
        return lines

    def text(self) -> str:
        """As plain text."""
        body, left = self.body(), len(self.table.columns)
        table = text_table(self.header()[:-1], [line[:-1] for line in body], left=left)
        notes = ["", "", *(line[-1] for line in body)]
        lines = [f"{a}  {b}".rstrip() for a, b in zip(table.splitlines(), notes, strict=True)]
        return "\n\n".join([self.table.title, "\n".join(lines), "\n".join(self.facts)])

    def markdown(self) -> str:
        """As a Markdown page."""
        table = markdown_table(self.header(), self.body(), left=len(self.table.columns), words=1)
        return f"# {self.table.title}\n\n{table}\n\n{bullets(self.facts)}\n"

    def csv(self) -> str:
        """As CSV with plain numbers; missing values are empty."""
        ours = [f"ours {m}{suffix}" for m in self.our_measures for suffix in ("", " deviation")]
        paper = [f"paper {measure}" for measure in self.table.measures]
        rows = [[*self.table.columns, *paper, *ours, "n", "note"]]
        for row, result, line in zip(self.table.rows, self.rows, self.body(), strict=True):
            numbers = ["" if value is None else f"{value:g}" for value in row.paper]
            for values in result.values or ((),) * len(self.our_measures):
                numbers += csv_numbers(values)
            rows.append([*row.cells, *numbers, *line[-2:]])
        return csv_table(rows)


def check_same_data(runs: Sequence[FinishedRun]) -> None:
    """Raises:
    PosteriorsError: the runs are not evaluated on the same images and classes.
    """
    texts = [
        f"{len(run.data.class_names)} classes and {len(run.data.evaluation):,} images of "
        f"{run.data.eval_split} of {run.config['data']['source']}"
        for run in runs
    ]
    for run, text in zip(runs, texts, strict=True):
        if text != texts[0] or run.data.class_names != runs[0].data.class_names:
            raise ensemble.PosteriorsError(
                f"one table cannot hold both {runs[0].folder.name}, evaluated on {texts[0]}, and "
                f"{run.folder.name}, evaluated on {text}: give runs of one data set"
            )


def side_by_side(table: PaperTable, runs: Sequence[FinishedRun]) -> SideBySide:
    """The table with the results of `runs`; all of `wanted_evaluations` must be done."""
    rows = tuple(row_result(table, row, runs) for row in table.rows)
    if table.is_of_parameters:
        facts = ["Ours are counted from the layer tables; no run is needed."]
        return SideBySide(table, rows, tuple(facts))
    used = {id(run) for run, *_ in wanted_evaluations(table, runs)}
    facts = [
        "Errors in percent; ± is the standard deviation (n - 1) over n runs, or n sets of runs where a row "
        "averages several nets. The paper's are of ImageNet.",
        "Scales of runs whose images are not of 224 pixels are the paper's in proportion.",
    ]
    for run in runs:
        unused = f"not in this table: {run.folder.name}"
        facts.append(describe_run(run) if id(run) in used else unused)
    return SideBySide(table, rows, tuple(facts))


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
    """One line: net, data and training of a run, or the origin of imported weights."""
    config, data = run.config, run.data
    if run.stored.is_imported:
        return (
            f"{run.folder.name}: {net_name(config['model'])}, width {config['model']['width']:g}, images of "
            f"{run.image_size}{scale_text(config)}, {imported_from(run)}, evaluated on "
            f"{len(data.evaluation):,} of {data.eval_split} of {config['data']['source']}, "
            f"{len(data.class_names)} classes"
        )
    return (
        f"{run.folder.name}: {net_name(config['model'])}, width {config['model']['width']:g}, images of "
        f"{run.image_size}{scale_text(config)}, seed {config['seed']}, {config['epochs']:g} epochs of "
        f"{len(data.train):,} images of {config['data']['source']}, evaluated on "
        f"{len(data.evaluation):,} of {data.eval_split}, {len(data.class_names)} classes"
    )


def imported_from(run: FinishedRun) -> str:
    """`imported from vgg16.caffemodel (Oxford VGG-16)`; '' for a run of jaxcnn."""
    if not run.stored.is_imported:
        return ""
    origin = run.stored.origin
    return f"imported from {origin.get('file', 'a file')} ({origin.get('title', 'unknown')})"


def _printed(value: float | None) -> str:
    """As papers print errors, with one decimal or two; millions as whole numbers."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:g}"
    return f"{value:.1f}" if math.isclose(value, round(value, 1)) else f"{value:.2f}"
