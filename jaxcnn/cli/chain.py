"""jaxcnn chain: trains a config in the stages of its get_chain(), as VGG was trained."""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcnn.cli.arguments import add_json, align, make_parser, messages
from jaxcnn.cli.exit_codes import EXIT_DONE, exit_code
from jaxcnn.cli.train import kept_text

if TYPE_CHECKING:
    from jaxcnn.training.stages import Stage


def main(arguments: Sequence[str]) -> int:
    """Trains the stages that are not finished, one after the other."""
    options, overrides = _parse(arguments)
    # Imported here, so that --help answers at once.
    from jaxcnn.training.signals import StopSignal
    from jaxcnn.training.stages import read_chain

    workdir = Path(options.workdir or f"runs/{Path(options.config).stem}_chain")
    command = ["chain", *arguments]
    stages: list[Stage] = []
    chosen: list[str] = []

    def plan() -> None:
        stages.extend(read_chain(options.config, workdir, overrides))
        chosen.extend(_chosen(options.stages, [stage.name for stage in stages]))
        rows = [_row(stage, stage.name in chosen) for stage in stages]
        if options.json and options.list:
            print(json.dumps(rows))
        else:
            with messages(options.json):
                print(align([tuple(rows[0]), *(tuple(row.values()) for row in rows)]), flush=True)
        _check(stages, chosen)

    code = exit_code(plan, kept=kept_text(workdir, command))
    if code != EXIT_DONE or options.list:
        return code
    with StopSignal() as stop_signal:
        for stage in (stage for stage in stages if stage.name in chosen):

            def work(stage: Stage = stage) -> None:
                stop_signal.check()
                with messages(options.json):
                    _train(stage, ["jaxcnn", *command])

            code = exit_code(work, kept=kept_text(stage.folder, command), config=stage.config)
            if code != EXIT_DONE:
                return code
    results = _results([stage for stage in stages if stage.name in chosen])
    print(json.dumps(results) if options.json else _table(results), flush=True)
    return EXIT_DONE


def _train(stage: Stage, command: Sequence[str]) -> None:
    """Trains a stage, unless it is finished."""
    import jax

    from jaxcnn.training import run
    from jaxcnn.training.stages import StageStatus

    if stage.progress() is StageStatus.DONE:
        print(f"\nstage {stage.name} is finished: {stage.folder}", flush=True)
        return
    print(f"\nstage {stage.name}", flush=True)
    run(stage.config, stage.folder, command=command)
    jax.clear_caches()  # compiled programs hold memory
    gc.collect()


def _chosen(text: str, names: Sequence[str]) -> list[str]:
    """The stages that `--stages` names; all of them where it is ''."""
    from jaxcnn.config import ConfigError

    wanted = [name.strip() for name in text.split(",")] if text else list(names)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ConfigError(f"--stages: no stage {', '.join(unknown)} (there are {', '.join(names)})")
    return wanted


def _check(stages: Sequence[Stage], chosen: Sequence[str]) -> None:
    """Checks all chosen stages before the first one starts.

    Raises:
        WorkdirError: a stage cannot be trained.
    """
    from jaxcnn.training.stages import unmet
    from jaxcnn.training.workdir import WorkdirError

    problems = []
    for stage in (stage for stage in stages if stage.name in chosen):
        changed = stage.difference()
        if changed:
            problems.append(
                f"{stage.folder} holds a run of another config:\n  " + "\n  ".join(changed)
                + "\nuse another --workdir, or that run's own settings"
            )  # fmt: skip
        problems += [problem for problem in [unmet(stage, stages, chosen)] if problem]
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
    from jaxcnn.training.report import read_report

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


def parser() -> argparse.ArgumentParser:
    result = make_parser(
        "chain",
        notes="Finished stages are skipped, unfinished stages resume. --config.SECTION.KEY=VALUE overrides\n"
        "a key of the config in all stages, --STAGE.SECTION.KEY=VALUE in one.",
        example="jaxcnn chain vgg_d --config.batch_size=128 --s384.epochs=20",
    )
    result.add_argument("config", help="file, or name of a file in configs/")
    result.add_argument(
        "--workdir", default="", help="folder that holds one folder per stage (runs/NAME_chain)"
    )
    result.add_argument("--stages", default="", help="names of stages, separated by commas (all)")
    result.add_argument(
        "--list", action="store_true", help="print the stages and their states; train nothing"
    )
    add_json(result, "print the results as JSON; with --list: the stages")
    return result


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, Mapping[str, list[str]]]:
    """(options; overrides `key=value` by the stage's name, 'config' for all)."""
    typed: list[str] = []
    overrides: dict[str, list[str]] = {}
    for argument in arguments:
        stage, dot, rest = argument.removeprefix("--").partition(".")
        if argument.startswith("--") and dot and "=" not in stage:
            overrides.setdefault(stage, []).append(rest)
        else:
            typed.append(argument)
    return parser().parse_args(typed), overrides
