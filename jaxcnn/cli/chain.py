"""Trains a config in stages, each of which may start from an earlier one: VGG's own order of training.

python -m jaxcnn.cli.chain configs/vgg_d.py [--workdir=DIR] [--config.KEY=VALUE ...] [--STAGE.KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import gc
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parents[2] / "configs"


def main(arguments: Sequence[str]) -> int:
    """Does the stages that are not done, one after the other.

    Returns:
        As main.py: 0 done, 1 error, 2 usage, 3 diverged, 143 stopped by a signal with the state saved.
    """
    options, overrides = _parse(arguments)
    # Imported here, so that --help answers at once.
    from jaxcnn.cli.train import EXIT_DONE, exit_code
    from jaxcnn.training.signals import StopSignal
    from jaxcnn.training.stages import Stage, read_chain

    workdir = Path(options.workdir or f"runs/{Path(options.config).stem}_chain")
    again = shlex.join(["python", "-m", "jaxcnn.cli.chain", *arguments])
    stages: list[Stage] = []
    chosen: list[str] = []

    def plan() -> None:
        stages.extend(read_chain(options.config, CONFIGS, workdir, overrides))
        chosen.extend(_chosen(options.stages, [stage.name for stage in stages]))
        print(_plan(stages, chosen), flush=True)
        _check(stages, chosen)

    code = exit_code(plan, again=again, workdir=workdir)
    if code != EXIT_DONE or options.list:
        return code
    with StopSignal() as stop_signal:
        for stage in stages:
            if stage.name not in chosen:
                continue

            def work(stage: Stage = stage) -> None:
                stop_signal.check()
                _do(stage, ["jaxcnn.cli.chain", *arguments])

            code = exit_code(work, again=again, workdir=stage.folder, config=stage.config)
            if code != EXIT_DONE:
                return code
    print(_results([stage for stage in stages if stage.name in chosen]), flush=True)
    return EXIT_DONE


def _do(stage: Any, command: Sequence[str]) -> None:
    """Trains a stage, or says that it is done."""
    import jax

    from jaxcnn.training import run
    from jaxcnn.training.stages import StageStatus

    if stage.progress() is StageStatus.DONE:
        print(f"\nstage {stage.name} is finished: {stage.folder}", flush=True)
        return
    print(f"\nstage {stage.name}", flush=True)
    run(stage.config, stage.folder, command=command)
    jax.clear_caches()  # programs and their constants
    gc.collect()


def _chosen(text: str, names: Sequence[str]) -> list[str]:
    """The stages that `--stages` names; all of them where it is ''."""
    from jaxcnn.config import ConfigError

    wanted = [name.strip() for name in text.split(",")] if text else list(names)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ConfigError(f"--stages: no stage {', '.join(unknown)} (there are {', '.join(names)})")
    return wanted


def _check(stages: Sequence[Any], chosen: Sequence[str]) -> None:
    """Raises WorkdirError where a stage cannot be done, before any is begun."""
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


def _plan(stages: Sequence[Any], chosen: Sequence[str]) -> str:
    rows = [("stage", "net", "S", "rate", "epochs", "starts from", "state")]
    for stage in stages:
        config = stage.config
        low, high = config["augment"]["scale"]
        model = config["model"]
        state = str(stage.progress()) + ("" if stage.name in chosen else ", not chosen")
        rows.append(
            (
                stage.name,
                f"{model['name']} {model.get('column', '')}".strip(),
                f"{low}" if low == high else f"{low}..{high}",
                f"{config['schedule']['rate']:g}",
                f"{config['epochs']:g}",
                stage.start or "random weights",
                state,
            )
        )
    return _table(rows)


def _results(stages: Sequence[Any]) -> str:
    from jaxcnn.training.report import read_report

    rows = [("stage", "step", "protocol", "split", "images", "top-1", "top-5", "loss")]
    for stage in stages:
        for row in read_report(stage.folder / "report.json")["results"]:
            rows.append(
                (
                    stage.name,
                    f"{row['step']:,}",
                    row["protocol"],
                    row["split"],
                    f"{row['n']:,}",
                    f"{row['top1']:.2%}",
                    f"{row['top5']:.2%}",
                    f"{row['loss']:.4f}",
                )
            )
    return "\n" + _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (zip(row, widths, strict=True) for row in rows)
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in line).rstrip() for line in lines)


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, Mapping[str, list[str]]]:
    """(options; overrides `key=value` by the stage's name, 'config' for all)."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxcnn.cli.chain",
        allow_abbrev=False,
        description="Trains a config in the stages of its get_chain(). A finished stage is skipped, an "
        "unfinished one goes on where it left.",
        epilog="Any key of the config: --config.SECTION.KEY=VALUE for all stages, "
        "--STAGE.SECTION.KEY=VALUE for one. Exit codes: 0 done, 1 error, 2 usage, 3 diverged, "
        "143 stopped by a signal with the state saved.",
    )
    parser.add_argument("config", help="file, or name of one in configs/")
    parser.add_argument("--workdir", default="", help="a folder a stage in it (runs/NAME_chain)")
    parser.add_argument("--stages", default="", help="names of those to do, with commas (all)")
    parser.add_argument(
        "--list", action="store_true", help="print the stages and their states; compute nothing"
    )
    mine: list[str] = []
    overrides: dict[str, list[str]] = {}
    for argument in arguments:
        stage, dot, rest = argument.removeprefix("--").partition(".")
        if argument.startswith("--") and dot and "=" not in stage:
            overrides.setdefault(stage, []).append(rest)
        else:
            mine.append(argument)
    return parser.parse_args(mine), overrides


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
