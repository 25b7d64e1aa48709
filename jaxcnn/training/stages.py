"""Chains of runs, in which a run may be initialized from an earlier one: stages and their status."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn import config as configs
from jaxcnn.files import exists
from jaxcnn.paths import Path
from jaxcnn.printable import shell_quote
from jaxcnn.training import run_files, schema
from jaxcnn.training.data_record import recorded_digests
from jaxcnn.training.schedules import Progress
from jaxcnn.training.workdir import has_begun

# The keys of a stage: type and its name in messages.
KEYS = {
    "name": (str, "a name"),
    "config": (str, "a name"),
    "start": (str, "a name"),
    "overrides": (dict, "a dict"),
}


class StageStatus(enum.StrEnum):
    """Status of a stage."""

    TO_DO = "to do"
    BEGUN = "unfinished"
    DONE = "finished"
    FOREIGN = "another config"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One run of a chain.

    Attributes:
        name: name of the stage and of its folder.
        config: resolved config.
        folder: workdir of the run.
        start: name of the stage whose weights initialize this one; '' for random initial weights.
    """

    name: str
    config: Mapping[str, Any]
    folder: Path
    start: str

    def difference(self) -> list[str]:
        """Forbidden differences between the run in the folder and the stage; [] if no run has begun."""
        if not has_begun(self.folder) or not exists(self.folder / "config.json"):
            return []
        saved = schema.read_saved_config(self.folder / "config.json")
        if not self.config["model"]["num_classes"]:  # taken from the data
            saved["model"]["num_classes"] = 0
        compared = bool(recorded_digests(self.folder))
        return configs.forbidden_difference(saved, self.config, any_place=compared)

    def progress(self) -> StageStatus:
        """The status. A stage is done if its report has every protocol at the last step."""
        if not has_begun(self.folder):
            return StageStatus.TO_DO
        if self.difference():
            return StageStatus.FOREIGN
        found = run_files.report_or_empty(self.folder / "report.json")
        starts = run_files.read_starts(self.folder / "run.json")
        if not starts:
            return StageStatus.BEGUN
        config, step, examples = self.config, found.get("step", -1), starts[-1]["examples"]
        total = Progress(examples, config["batch_size"], config["epochs"]).total
        side = config["model"]["image_size"]
        wanted = {protocol.label(side) for protocol in schema.run_protocols(config)}
        done = {row["protocol"] for row in found["results"] if row["step"] == step}
        return StageStatus.DONE if step >= total and wanted <= done else StageStatus.BEGUN


def read_chain(
    path: str, workdir: Path, overrides: Mapping[str, Sequence[str]]
) -> tuple[Stage, ...]:
    """The stages that `get_chain()` of a config file names, in order, every config resolved.

    `get_chain()` returns a tuple of dicts: `name`; `config`, the name of another config file (in the same
    folder or in configs/), if it is not this one; `start`, the earlier stage whose weights it copies;
    `overrides`, key -> value.

    Args:
        path: a config file, or the bare name of one in configs/.
        workdir: parent of the stages' folders.
        overrides: lists of `key=value` by stage name; those under 'config' apply to all stages.

    Raises:
        ConfigError: lists all errors in the chain and in the configs of its stages.
    """
    file = configs.find_config(path)
    rows = _rows(file)
    names = [row["name"] for row in rows]
    errors = [
        f"there is no stage {name!r}{configs.did_you_mean(name, names, '{!r}')} (stages: {', '.join(names)})"
        for name in overrides
        if name not in (*names, "config")
    ]
    stages = []
    for row in rows:
        name, start = row["name"], row.get("start", "")
        settings = dict(row.get("overrides", {}))
        settings |= {"init.from_run": str(workdir / start)} if start else {}
        typed = [*overrides.get("config", ()), *overrides.get(name, ())]
        other = row.get("config") or str(file)
        folder = file.parent if (file.parent / f"{other}.py").is_file() else configs.CONFIGS
        try:
            given = configs.read_config(configs.find_config(other, folder))
            config = schema.resolve_config(_with(given, settings), typed)
            stages.append(Stage(name, config, workdir / name, start))
        except configs.ConfigError as error:
            errors += [f"stage {name}: {line}" for line in str(error).splitlines()]
    if errors:
        raise configs.ConfigError("\n".join(errors))
    return tuple(stages)


def unmet(stage: Stage, stages: Sequence[Stage], chosen: Sequence[str]) -> str:
    """Why `stage` cannot start; '' if it can, from an existing run or one that this command trains first.

    Args:
        chosen: names of the stages that this command runs.
    """
    if not stage.start or stage.progress() is not StageStatus.TO_DO:
        return ""
    start = next(s for s in stages if s.name == stage.start)
    status = start.progress()
    trained_first = start.name in chosen and status is not StageStatus.FOREIGN
    if status is StageStatus.DONE or trained_first:
        return ""
    return (
        f"stage {stage.name} starts from stage {start.name}, which is "
        f"{'missing' if status is StageStatus.TO_DO else status} in {start.folder}; do it first: "
        f"--stages={start.name},{stage.name}, or leave --stages out"
    )


def _rows(file: Path) -> tuple[dict[str, Any], ...]:
    """The checked result of `get_chain()` of a file.

    Raises:
        ConfigError: the file has no `get_chain()`, or its result is invalid; lists all errors.
    """
    module = configs.execute(file)
    if not hasattr(module, "get_chain"):
        raise configs.ConfigError(
            f"{file} has no function get_chain(); train it alone: jaxcnn train "
            + shell_quote(f"--config={file}")
        )
    rows = configs.plain(module.get_chain())
    if not isinstance(rows, tuple) or not rows or not all(isinstance(row, dict) for row in rows):
        raise configs.ConfigError(
            f"{file}: get_chain() must return a tuple of stages such as "
            f"dict(name='s256', start='net_a', overrides={{...}}), got {rows!r}"
        )
    names = [row.get("name") for row in rows]
    errors = [
        f"{file}: get_chain(): {error}"
        for number, row in enumerate(rows)
        for error in _row_errors(row, names[:number])
    ]
    if errors:
        raise configs.ConfigError("\n".join(errors))
    return rows


def _row_errors(row: Mapping[str, Any], earlier: Sequence[Any]) -> list[str]:
    name = row.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name == "config":
        return [
            f"a stage needs a name of letters, digits, - and _ which is not 'config', got {name!r}"
        ]
    errors = [
        f"stage {name}: unknown key {key!r}{configs.did_you_mean(key, KEYS, '{!r}')} "
        f"(valid: {', '.join(KEYS)})"
        for key in row
        if key not in KEYS
    ]
    if name in earlier:
        errors.append(f"two stages are called {name!r}; give one another name")
    for key, (kind, what) in KEYS.items():
        if not isinstance(row.get(key, kind()), kind):
            errors.append(f"stage {name}: {key} must be {what}, got {row[key]!r}")
    start = row.get("start", "")
    if start and start not in earlier:
        hint = configs.did_you_mean(start, earlier, "{!r}")
        errors.append(f"stage {name} starts from {start!r}, which is no earlier stage{hint}")
    return errors


def _with(given: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with `settings` applied as if they were in its file, so that command-line overrides win."""
    config = {k: dict(v) if isinstance(v, Mapping) else v for k, v in given.items()}
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        (config.setdefault(section, {}) if section else config)[name] = value
    return config
