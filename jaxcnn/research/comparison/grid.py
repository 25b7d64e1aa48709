"""All runs of a comparison, with resolved configs and workdirs. Trains nothing.

A variant at a point of the grid is a cell. Each seed of a cell is a run, in OUT/COMPARISON/CELL/seed_N.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn import config as configs
from jaxcnn import models
from jaxcnn.models.summary import CONTAINERS, summarise
from jaxcnn.paths import Path
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
    """A variant at a point of the grid."""

    variant: str
    point: Mapping[str, Any]
    parameters: int  # of the net that is evaluated
    macs: int  # multiply-adds of the forward pass of one image in training, with auxiliary heads
    runs: tuple[GridRun, ...]  # one per seed

    def label(self, short: bool = False) -> str:
        """`tanh, schedule.rate=0.01`; short: `tanh, rate=0.01`."""
        return _label(self.variant, self.point, short)

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the first seed."""
        return self.runs[0].config


@dataclasses.dataclass(frozen=True)
class Grid:
    """A resolved comparison."""

    comparison: Comparison
    measure: Measure
    folder: Path  # of its tables and its runs
    cells: tuple[GridCell, ...]
    examples: int  # training images per epoch

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
    data_sizes: dict[str, Any] = {}
    for comparison in comparisons:
        try:
            grids.append(_GridBuilder(comparison, out / comparison.name, data_sizes).build())
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


class _GridBuilder:
    """Resolves a comparison. `data_sizes` holds the numbers of classes and examples by `data` section: data
    that comparisons share is opened once."""

    def __init__(self, comparison: Comparison, folder: Path, data_sizes: dict[str, Any]) -> None:
        self.comparison, self.folder, self.data_sizes = comparison, folder, data_sizes
        self.given = configs.read_config(configs.find_config(comparison.base))

    def build(self) -> Grid:
        comparison, name = self.comparison, self.comparison.name
        measure, grid = parse_measure(comparison.measure), comparison.grid
        try:
            base = self._resolve()
        except configs.ConfigError as error:  # every variant would repeat it
            raise configs.ConfigError(_prefixed(name, error)) from error
        if measure.is_top1 and not base["evals"]:
            raise configs.ConfigError(f"{name}: measure {measure.name} needs a row in evals")
        points = [dict(zip(grid, p, strict=True)) for p in itertools.product(*grid.values())]
        cells: list[GridCell] = []
        errors = []
        for variant, point in itertools.product(comparison.variants, points):
            try:
                cells.append(self._cell(variant, point, cells))
            except configs.ConfigError as error:
                errors.append(_prefixed(f"{name}, {_label(variant, point)}", error))
        errors += [
            f"{name}: {a.label()} and {b.label()} are the same config; change an override, or leave one out"
            for a, b in itertools.combinations(cells, 2)
            if a.config == b.config
        ]
        if errors:
            raise configs.ConfigError("\n".join(errors))
        return Grid(comparison, measure, self.folder, tuple(cells), self._data_sizes(base)[1])

    def _cell(self, variant: str, point: Mapping[str, Any], others: list[GridCell]) -> GridCell:
        """The runs of a variant at a point of the grid; `others` holds the first variant's cell there."""
        comparison, changes = self.comparison, self.comparison.variants[variant]
        config = self._resolve(changes, point)
        parameters, macs = _parameters_and_macs(**config["model"])
        first = next((cell for cell in others if cell.point == point), None)
        if comparison.budget == "macs" and first is not None:
            changes = {**changes, **scale_durations(config, first.macs / macs)}
        cell_folder = self.folder / slug(_label(variant, point, short=True))
        runs = []
        for seed in comparison.seeds:
            config = self._resolve(changes, point, {"seed": seed})
            examples = self._data_sizes(config)[1]
            steps = Progress(examples, config["batch_size"], config["epochs"]).total
            name = f"{comparison.name}: {_label(variant, point)}, seed {seed}"
            runs.append(GridRun(name, cell_folder / f"seed_{seed}", config, steps))
        return GridCell(variant, point, parameters, macs, tuple(runs))

    def _resolve(self, *overrides: Mapping[str, Any]) -> dict[str, Any]:
        pairs = [pair for o in (self.comparison.overrides, *overrides) for pair in o.items()]
        texts = [f"{key}={v if isinstance(v, str) else repr(v)}" for key, v in pairs]
        config = schema.resolve_config(self.given, texts)
        return with_classes(config, self._data_sizes(config)[0])

    def _data_sizes(self, config: Mapping[str, Any]) -> tuple[int, int]:
        key = json.dumps({k: v for k, v in config["data"].items() if k != "seed"})
        if key not in self.data_sizes:
            data = open_splits(config["data"])
            self.data_sizes[key] = len(data.class_names), len(data.train)
        return self.data_sizes[key]


@functools.cache
def _parameters_and_macs(**model: Any) -> tuple[int, int]:
    """Of the net of a config's `model` section; the multiply-adds are those in training."""
    net = summarise(models.build(**model))
    return net.parameters, sum(row.macs for row in net.rows if row.kind not in CONTAINERS)


def _prefixed(where: str, error: configs.ConfigError) -> str:
    return "\n".join(f"{where}: {line}" for line in str(error).splitlines())


def _label(variant: str, point: Mapping[str, Any], short: bool = False) -> str:
    values = (f"{k.rpartition('.')[2] if short else k}={v}" for k, v in point.items())
    return ", ".join([variant, *values])
