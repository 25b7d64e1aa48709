"""Train a config in stages, each starting from an earlier one (VGG's schedule).

Finished stages are skipped, unfinished stages resume. --config.SECTION.KEY=VALUE overrides a key of the
config in all stages, --STAGE.SECTION.KEY=VALUE in one.

example: jaxcnn chain vgg_d --config.batch_size=128 --s384.epochs=20
"""

from __future__ import annotations

import argparse
import gc
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxcnn.cli.arguments import Output, add_json, align, choose, names, path
from jaxcnn.cli.exit_codes import EXIT_DONE, exit_code
from jaxcnn.cli.train import kept_text
from jaxcnn.paths import user_path
from jaxcnn.printable import say

if TYPE_CHECKING:
    from jaxcnn.training.stages import Stage

KEPT = "finished stages are saved. To go on: {command}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.set_defaults(overrides=(), override_prefix="--")
    add("config", help="file, or name of a file in configs/")
    help_text = "folder that holds one folder per stage (runs/NAME_chain)"
    add("--workdir", type=path, help=help_text)
    add("--stages", type=names, default=(), help="names of stages, separated by commas (all)")
    help_text = "resume although images changed since the last start (see jaxcnn train)"
    add("--accept_changed_data", action="store_true", help=help_text)
    help_text = "print the stages and their states; train nothing"
    add("--list", action="store_true", help=help_text)
    add_json(parser, "print the results as JSON; with --list: the stages")


def run(options: argparse.Namespace) -> Iterator[Output]:
    """Trains the stages that are not finished, one after the other."""
    from jaxcnn.training.signals import StopSignal
    from jaxcnn.training.stages import read_chain

    workdir = options.workdir or user_path(f"runs/{pathlib.Path(options.config).stem}_chain")
    overrides: dict[str, list[str]] = {}
    for text in options.overrides:
        stage, _, override = text.partition(".")
        overrides.setdefault(stage, []).append(override)
    stages = read_chain(options.config, workdir, overrides)
    found = [stage.name for stage in stages]
    wanted = choose("stage", options.stages or found, found)
    rows = [_row(stage, stage.name in wanted) for stage in stages]
    plan = align([tuple(rows[0]), *(tuple(row.values()) for row in rows)])
    yield Output(rows if options.list else None, plan)
    _check(stages, wanted)
    if options.list:
        return
    chosen = [stage for stage in stages if stage.name in wanted]
    with StopSignal() as stop_signal:
        for stage in chosen:

            def work(stage: Stage = stage) -> None:
                stop_signal.check()
                _train(stage, options)

            kept = kept_text(stage.folder, options.command_line)
            code = exit_code(work, kept=kept, config=stage.config)
            if code != EXIT_DONE:
                yield Output(code=code)
                return
    results = _results(chosen)
    yield Output(results, _table(results))


def _train(stage: Stage, options: argparse.Namespace) -> None:
    """Trains a stage, unless it is finished."""
    import jax

    from jaxcnn.training import run
    from jaxcnn.training.stages import StageStatus

    if stage.progress() is StageStatus.DONE:
        say(f"\nstage {stage.name} is finished: {stage.folder}")
        return
    say(f"\nstage {stage.name}")
    accept = options.accept_changed_data
    run(stage.config, stage.folder, command=options.command_line, accept_changed_data=accept)
    jax.clear_caches()  # compiled programs hold memory
    gc.collect()


def _check(stages: Sequence[Stage], chosen: Sequence[str]) -> None:
    """Checks all chosen stages before the first one starts.

    Raises:
        WorkdirError: a stage cannot be trained.
    """
    from jaxcnn.training.stages import unmet
    from jaxcnn.training.workdir_lock import WorkdirError

    problems = []
    for stage in (stage for stage in stages if stage.name in chosen):
        if changed := stage.difference():
            lines = [f"{stage.folder} holds a run of another config:", *changed]
            advice = "\nuse another --workdir, or that run's own settings"
            problems.append("\n  ".join(lines) + advice)
        if problem := unmet(stage, stages, chosen):
            problems.append(problem)
    if problems:
        raise WorkdirError("\n".join(problems))


def _row(stage: Stage, chosen: bool) -> dict[str, str]:
    """A row of the plan, by column."""
    config = stage.config
    low, high = config["augment"]["scale"]
    model = config["model"]
    return {
        "stage": stage.name,
        "net": f"{model['name']} {model.get('column', '')}".strip(),
        "S": f"{low}" if low == high else f"{low}..{high}",
        "rate": f"{config['schedule']['rate']:g}",
        "epochs": f"{config['epochs']:g}",
        "starts from": stage.start or "random weights",
        "state": str(stage.progress()) + ("" if chosen else ", not chosen"),
    }


def _results(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """The rows of the stages' reports."""
    from jaxcnn.training.run_files import read_report

    return [
        {"stage": stage.name, **row}
        for stage in stages
        for row in read_report(stage.folder / "report.json")["results"]
    ]


def _table(results: Sequence[Mapping[str, Any]]) -> str:
    rows = [("stage", "step", "protocol", "split", "images", "top-1", "top-5", "loss")]
    for row in results:
        figures = f"{row['top1']:.2%}", f"{row['top5']:.2%}", f"{row['loss']:.4f}"
        counts = f"{row['step']:,}", row["protocol"], row["split"], f"{row['n']:,}"
        rows.append((row["stage"], *counts, *figures))
    return "\n" + align(rows)
