"""All runs of a comparison, with resolved configs and workdirs. Trains nothing.

A variant at a point of the grid is a cell. Each seed of a cell is a run, in OUT/COMPARISON/CELL/seed_N.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcnn import config as configs
from jaxcnn import models
from jaxcnn.models.summary import CONTAINERS, summarise
from jaxcnn.research.comparison.measures import Measure, parse_measure
from jaxcnn.research.comparison.spec import Comparison, slug
from jaxcnn.training import schema
from jaxcnn.training.builder import with_classes
from jaxcnn.training.evaluator import open_splits
from jaxcnn.training.schedules import Progress

# Keys in epochs. Where a budget changes the epochs of a variant, these are scaled with them: a variant that
# trains half as long drops its learning rate twice as early.
EPOCH_KEYS = ("schedule.drops", "schedule.every", "schedule.every_epochs", "average.from_epoch")


@dataclasses.dataclass(frozen=True)
class GridRun:
    """A training run: `steps` updates of the resolved `config` in `folder`; `name` is for messages."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    steps: int


@dataclasses.dataclass(frozen=True)
class GridCell:
    """A variant at a point of the grid.

    Attributes:
        parameters: of the net that is evaluated.
        macs: multiply-adds of the forward pass of one image in training, with auxiliary heads.
        runs: one per seed.
    """

    variant: str
    point: Mapping[str, Any]
    parameters: int
    macs: int
    runs: tuple[GridRun, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the first seed."""
        return self.runs[0].config


@dataclasses.dataclass(frozen=True)
class Grid:
    """A resolved comparison.

    Attributes:
        folder: of its tables and its runs.
        examples: training images per epoch.
    """

    comparison: Comparison
    measure: Measure
    folder: Path
    cells: tuple[GridCell, ...]
    examples: int

    def runs(self) -> list[GridRun]:
        """All runs, seed by seed, so that a stopped comparison has every variant equally often."""
        return [run for runs in zip(*(c.runs for c in self.cells), strict=True) for run in runs]


def make_grid(comparisons: Sequence[Comparison], out: Path) -> tuple[Grid, ...]:
    """The grids of `comparisons`, with folders under `out`.

    Raises:
        ConfigError: lists the errors of all configs of all comparisons, one per line.
        DataError: data that a config names is missing or cannot be used.
    """
    grids, errors = [], []
    data = _DataFacts()
    for comparison in comparisons:
        try:
            builder = _GridBuilder(comparison, out / comparison.name, data)
            grids.append(builder.build())
        except configs.ConfigError as error:
            errors.append(str(error))
    if errors:
        raise configs.ConfigError("\n".join(errors))
    return tuple(grids)


def scale_durations(config: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Overrides that multiply the epochs of `config`, and all keys in epochs, by `factor`."""
    found: dict[str, Any] = {"epochs": round(config["epochs"] * factor, 4)}
    for name in EPOCH_KEYS:
        section, key = name.split(".")
        value = config.get(section, {}).get(key)
        if isinstance(value, tuple):
            found[name] = tuple(round(v * factor, 4) for v in value)
        elif value and isinstance(value, float):  # a plateau rule's drops are a count
            found[name] = round(value * factor, 4)
    return found


class _DataFacts:
    """Numbers of classes and examples; data shared by several runs is opened once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int]] = {}

    def classes_and_examples(self, config: Mapping[str, Any]) -> tuple[int, int]:
        key = json.dumps({k: v for k, v in config["data"].items() if k != "seed"})
        if key not in self._known:
            data = open_splits(config["data"])
            self._known[key] = len(data.class_names), len(data.train)
        return self._known[key]


class _GridBuilder:
    def __init__(self, comparison: Comparison, folder: Path, data: _DataFacts) -> None:
        self.comparison, self.folder, self.data = comparison, folder, data
        self.given = configs.read_config(configs.find_config(comparison.base))

    def build(self) -> Grid:
        comparison, measure = self.comparison, parse_measure(self.comparison.measure)
        try:
            base = self._resolve()
        except configs.ConfigError as error:  # every variant would repeat it
            raise configs.ConfigError(_at(comparison.name, error)) from error
        if measure.needs_evaluation and not base["evals"]:
            raise configs.ConfigError(
                f"{comparison.name}: measure {measure.name} needs a row in evals"
            )
        grid = comparison.grid
        points = [dict(zip(grid, p, strict=True)) for p in itertools.product(*grid.values())]
        cells: list[GridCell] = []
        errors = []
        for (variant, changes), point in itertools.product(comparison.variants.items(), points):
            budget = next((c for c in cells if c.point == point), None)
            try:
                cells.append(self._cell(variant, changes, point, budget))
            except configs.ConfigError as error:
                errors.append(_at(f"{comparison.name}, {_label(variant, point)}", error))
        errors += _identical_cells(comparison, cells)
        if errors:
            raise configs.ConfigError("\n".join(errors))
        examples = self.data.classes_and_examples(base)[1]
        return Grid(comparison, measure, self.folder, tuple(cells), examples)

    def _cell(
        self,
        variant: str,
        changes: Mapping[str, Any],
        point: Mapping[str, Any],
        first: GridCell | None,
    ) -> GridCell:
        """The runs of a variant at a point of the grid; `first` is the first variant's cell there."""
        comparison, label = self.comparison, _label(variant, point)
        config = self._resolve(changes, point)
        net = summarise(models.build(**config["model"]))
        macs = sum(row.macs for row in net.rows if row.kind not in CONTAINERS)
        if comparison.budget == "macs" and first is not None:
            changes = {**changes, **scale_durations(config, first.macs / macs)}
        runs = []
        for seed in comparison.seeds:
            config = self._resolve(changes, point, {"seed": seed})
            examples = self.data.classes_and_examples(config)[1]
            steps = Progress(examples, config["batch_size"], config["epochs"]).total
            folder = self.folder / slug(_label(variant, point, short=True)) / f"seed_{seed}"
            runs.append(GridRun(f"{comparison.name}: {label}, seed {seed}", folder, config, steps))
        return GridCell(variant, point, net.parameters, macs, tuple(runs))

    def _resolve(self, *overrides: Mapping[str, Any]) -> dict[str, Any]:
        texts = [t for o in (self.comparison.overrides, *overrides) for t in _texts(o)]
        config = schema.resolve_config(self.given, texts)
        return with_classes(config, self.data.classes_and_examples(config)[0])


def _identical_cells(comparison: Comparison, cells: Sequence[GridCell]) -> list[str]:
    """Errors for cells with equal configs: an override that repeats the config."""
    return [
        f"{comparison.name}: {_label(a.variant, a.point)} and {_label(b.variant, b.point)} are the "
        "same config; change an override, or leave one out"
        for a, b in itertools.combinations(cells, 2)
        if a.config == b.config
    ]


def _at(where: str, error: configs.ConfigError) -> str:
    return "\n".join(f"{where}: {line}" for line in str(error).splitlines())


def _texts(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides as KEY=VALUE."""
    return [f"{k}={v if isinstance(v, str) else repr(v)}" for k, v in overrides.items()]


def _label(variant: str, point: Mapping[str, Any], short: bool = False) -> str:
    """`tanh, schedule.rate=0.01`; short: `tanh, rate=0.01`."""
    values = (f"{k.rpartition('.')[2] if short else k}={v}" for k, v in point.items())
    return ", ".join([variant, *values])
