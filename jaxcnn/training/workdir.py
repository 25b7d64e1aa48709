"""A run's folder: whose it is, and what a run says when it starts and ends in it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcnn import config as configs
from jaxcnn import data as room
from jaxcnn.models.summary import format_table, summarise
from jaxcnn.parallel import describe_devices
from jaxcnn.training import report
from jaxcnn.training.experiment import Experiment
from jaxcnn.training.judging import Judge
from jaxcnn.training.logging import Screen, duration, read_events
from jaxcnn.training.pace import Pace


class WorkdirError(RuntimeError):
    """A workdir that cannot be used for this run; says what to do."""


def prepare(folder: Path, config: Mapping[str, Any], class_names: Sequence[str]) -> None:
    """Makes `folder` this run's, or checks that it is.

    Raises:
        WorkdirError: it holds a run of another config, or it cannot be written.
    """
    path = folder / "config.json"
    if path.exists():
        try:
            changed = configs.forbidden_difference(configs.load(path), config)
        except ValueError as error:
            raise WorkdirError(
                f"{path} is not readable as JSON ({error}); use another --workdir"
            ) from error
        if changed:
            raise WorkdirError(
                f"{folder} holds a run of another config:\n  " + "\n  ".join(changed) + "\n"
                f"only {', '.join(configs.MAY_DIFFER)} may differ when a run goes on; use another --workdir, "
                "or that run's own settings"
            )
    elif (folder / "checkpoints").exists():
        raise WorkdirError(f"{folder} has checkpoints but no config.json; use another --workdir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        configs.save(config, path)
        (folder / "classes.txt").write_text("\n".join(class_names) + "\n")
    except OSError as error:
        raise WorkdirError(
            f"cannot write to the workdir {folder}: {error}; use another --workdir"
        ) from error


def announce(
    screen: Screen, experiment: Experiment, data: room.Data, pace: Pace, folder: Path, start: int
) -> None:
    """What a user sees before the first step."""
    config, side = experiment.config, experiment.net.image_size
    per_device = config["batch_size"] // experiment.placement.data_size
    screen.line(format_table(summarise(experiment.net)))
    screen.line("")
    for name, text in (
        ("devices", describe_devices()),
        ("data", data.description),
        ("batch", f"{config['batch_size']} ({per_device} a device), images {side} x {side}"),
        (
            "length",
            f"{pace.epochs:g} epochs of {pace.steps_per_epoch:.1f} steps = {pace.total:,} steps",
        ),
        ("workdir", f"{folder}, " + (f"resumed at step {start:,}" if start else "fresh run")),
    ):
        screen.line(f"{name:<8} {text}")
    if start > pace.total:
        screen.line(f"{'':<8} the run is past its {pace.total:,} steps already: evaluation only")


def conclude(
    screen: Screen, judge: Judge, folder: Path, step: int, seconds: float, compile_seconds: float
) -> dict[str, Any]:
    """Writes report.json and curves.png, prints the result and the next command.

    Args:
        seconds: wall seconds of training and evaluation, over all starts.
        compile_seconds: of this start.
    """
    path = folder / "report.json"
    before = report.read_report(path)
    events = read_events(folder / "metrics.jsonl")
    rates = [e["images_per_second"] for e in events if e["kind"] == "train"]
    config = judge.experiment.config
    whole = report.write_report(
        path,
        before,
        [result for result in judge.results.values() if result[0] == step],
        net=config["model"],
        source=config["data"]["source"],
        step=step,
        epochs=judge.pace.epoch(step),
        parameters=summarise(judge.experiment.net).parameters,
        images_per_second=statistics.median(rates) if rates else None,
        seconds=seconds,
        compile_seconds=compile_seconds or before.get("compile_seconds", 0.0),
        unreadable_images=sorted(judge.corrupt),
    )
    report.draw_curves(
        events, folder / "curves.png", f"{config['model']['name']} on {config['data']['source']}"
    )
    screen.line("")
    for row in whole["results"]:
        screen.line(report.result_text(row))
    if judge.corrupt:
        screen.line(f"{len(judge.corrupt)} images could not be read (report.json names them)")
    screen.line(
        f"step {step:,} in {duration(seconds)}; report.json, metrics.jsonl and curves.png in {folder}"
    )
    screen.line(f"next, what it sees in an image of yours:\n  {_try_it(folder)}")
    return whole


def _try_it(folder: Path) -> str:
    place = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return (
        f"python -c \"import jaxcnn; r = jaxcnn.load('{place}'); "
        "print(r.classes[r.probabilities(r.preprocess('IMAGE.jpg')).argmax()])\""
    )
