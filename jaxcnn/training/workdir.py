"""A run's folder: whose it is, and what a run says when it starts and ends in it."""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcnn import config as configs
from jaxcnn import data as room
from jaxcnn.models.summary import format_table, summarise
from jaxcnn.parallel import ProcessGroup, describe_devices, plan_lines
from jaxcnn.training import report
from jaxcnn.training.builder import Experiment
from jaxcnn.training.evaluator import Evaluator
from jaxcnn.training.metrics_writer import Console, duration, read_events
from jaxcnn.training.progress import Progress
from jaxcnn.training.warm_start import WarmStart


class WorkdirError(RuntimeError):
    """A workdir that cannot be used for this run; says what to do."""


def check_shared(folder: Path, process_group: ProcessGroup) -> None:
    """Checks that every process sees the folder that the first one writes.

    Raises:
        WorkdirError: on every process, naming those that do not.
    """
    if process_group.count == 1:
        return
    token, path = secrets.token_hex(8), folder / ".shared"
    token, first = process_group.run_on_primary(
        lambda: (path.write_text(token), (token, str(folder)))[1]
    )
    blind = [
        i
        for i, seen in enumerate(process_group.gather(path.exists() and path.read_text() == token))
        if not seen
    ]
    process_group.run_on_primary(lambda: path.unlink())
    if blind:
        raise WorkdirError(
            f"the workdir {first} of process 0 is not there for process {', '.join(map(str, blind))}; give "
            "a --workdir on a file system that all machines share"
        )


def has_begun(folder: Path) -> bool:
    """Whether there are checkpoints that a run in `folder` goes on from."""
    return any(entry.name.isdigit() for entry in _entries(folder / "checkpoints"))


def prepare(
    folder: Path, config: Mapping[str, Any], class_names: Sequence[str], examples: int
) -> None:
    """Makes `folder`, which is there, this run's, or checks that it is.

    Args:
        class_names: of the source, by label.
        examples: training examples an epoch, without those held out.

    Raises:
        WorkdirError: it holds a run of another config or of other data, or it cannot be written.
    """
    path, names = folder / "config.json", "".join(f"{name}\n" for name in class_names)
    begun = has_begun(folder)
    if begun and not path.exists():
        raise WorkdirError(f"{folder} has checkpoints but no config.json; use another --workdir")
    if begun:
        _check_same_config(folder, config)
        _check_same_data(folder, names, examples)
    try:
        configs.save_config(config, path)
        (folder / "classes.txt").write_text(names)
    except OSError as error:
        raise cannot_write(folder, error) from error


def cannot_write(folder: Path, error: OSError) -> WorkdirError:
    return WorkdirError(f"cannot write to the workdir {folder}: {error}; use another --workdir")


def _check_same_config(folder: Path, config: Mapping[str, Any]) -> None:
    path = folder / "config.json"
    try:
        changed = configs.forbidden_difference(configs.load_config(path), config)
    except ValueError as error:
        raise WorkdirError(
            f"{path} is not readable as JSON ({error}); use another --workdir"
        ) from error
    if changed:
        raise WorkdirError(
            f"{folder} holds a run of another config:\n  " + "\n  ".join(changed) + "\n"
            f"only {', '.join(configs.MAY_DIFFER)} may differ when a run goes on; use another "
            "--workdir, or that run's own settings"
        )


def _check_same_data(folder: Path, names: str, examples: int) -> None:
    before = folder / "classes.txt"
    if before.exists() and before.read_text() != names:
        raise WorkdirError(
            f"the classes of the data are no longer those of {before}, so labels would mean other "
            "things than the run learnt; use another --workdir, or the data as it was"
        )
    starts = report.read_starts(folder / "run.json")
    if starts and starts[-1]["examples"] != examples:
        raise WorkdirError(
            f"the run in {folder} began with {starts[-1]['examples']:,} training examples, now there "
            f"are {examples:,}, so it could not go on exactly; use another --workdir, or the data as "
            "it was"
        )


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def announce(
    console: Console,
    experiment: Experiment,
    data: room.DataSplits,
    pace: Progress,
    folder: Path,
    start: int,
    transfer: WarmStart | None,
) -> None:
    """What a user sees before the first step."""
    config, side = experiment.config, experiment.net.image_size
    per_device = config["batch_size"] // experiment.placement.devices
    console.line(format_table(summarise(experiment.net)))
    console.line("")
    for name, text in (
        ("devices", describe_devices()),
        *plan_lines(experiment.plan, experiment.reduction, experiment.moved),
        ("data", data.description),
        (
            "batch",
            f"{config['batch_size']} ({per_device} a device), images {side} x {side}",
        ),
        (
            "length",
            f"{pace.epochs:g} epochs of {pace.steps_per_epoch:.1f} steps = {pace.total:,} steps",
        ),
        ("workdir", f"{folder}, " + (f"resumed at step {start:,}" if start else "fresh run")),
        *(transfer.lines() if transfer else []),
        *experiment.augment.lines(),
        *experiment.average.lines(),
    ):
        console.line(f"{name:<8} {text}")
    if start > pace.total:
        console.line(f"{'':<8} the run is past its {pace.total:,} steps already: evaluation only")


def conclude(
    console: Console,
    judge: Evaluator,
    folder: Path,
    step: int,
    seconds: float,
    compile_seconds: float,
    best: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Writes report.json and curves.png, prints the result and the next command.

    Args:
        seconds: wall seconds of training and evaluation, over all starts.
        compile_seconds: of this start.
        best: step and top-1 of the best checkpoint on the held-out images.
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
        best=best,
        unreadable_images=sorted(judge.corrupt),
    )
    report.draw_curves(
        events, folder / "curves.png", f"{config['model']['name']} on {config['data']['source']}"
    )
    console.line("")
    for row in whole["results"]:
        console.line(report.result_text(row))
    if best:
        console.line(f"best on held-out images: step {best['step']:,}, top-1 {best['top1']:.2%}")
    if judge.corrupt:
        console.line(f"{len(judge.corrupt)} images could not be read (report.json names them)")
    console.line(
        f"step {step:,} in {duration(seconds)}; report.json, metrics.jsonl and curves.png in {folder}"
    )
    console.line(f"next, what it sees in an image of yours:\n  {_try_it(folder)}")
    return whole


def _try_it(folder: Path) -> str:
    place = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return f"jaxcnn predict --workdir={place} IMAGE.jpg"
