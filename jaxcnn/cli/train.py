"""jaxcnn train: trains and evaluates a config, alone or as one of several processes."""

from __future__ import annotations

import argparse
import faulthandler
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxcnn.cli.arguments import make_parser, parse
from jaxcnn.cli.exit_codes import (
    EXIT_DIVERGED,
    EXIT_DONE,
    EXIT_ERROR,
    EXIT_STOPPED,
    exit_code,
    fail,
    is_follower,
    process_name,
)


def main(arguments: Sequence[str]) -> int:
    options, overrides = parse(parser(), arguments)
    # A fatal error in a library prints where every thread was.
    faulthandler.enable(sys.__stderr__ or sys.stderr)
    # Imported here, so that --help answers at once.
    from jaxcnn import config as configs
    from jaxcnn.training import run, schema
    from jaxcnn.training.dry_run import dry_run

    workdir = options.workdir or f"runs/{Path(options.config).stem}"
    resolved: dict[str, Any] = {}

    def work() -> None:
        if not options.print_config:
            _start(options)
        given, config = schema.read_resolved(options.config, overrides)
        resolved.update(config)
        if options.print_config:
            print(configs.format_config(config, given, overrides))
        elif options.dry_run:
            print(dry_run(config))
        else:
            run(config, workdir, command=["jaxcnn", "train", *arguments])

    try:
        code = exit_code(work, kept=kept_text(workdir, ["train", *arguments]), config=resolved)
    except Exception as error:
        if not process_name():
            raise
        traceback.print_exc()
        code = fail(process_name(), _lost_advice(error), EXIT_ERROR)
    if code not in (EXIT_DONE, EXIT_DIVERGED, EXIT_STOPPED) and process_name():
        from jaxcnn.parallel import leave_process_group

        leave_process_group(code)
    return code


def kept_text(workdir: str | Path, command: Sequence[str]) -> Callable[[], str]:
    """What to print after a stop: whether the workdir holds a state, and how to resume."""

    def text() -> str:
        folder = Path(workdir).absolute()
        saved = any(entry.name.isdigit() for entry in (folder / "checkpoints").glob("*"))
        state = "the state is saved in" if saved else "nothing was trained yet in"
        return f"{state} {folder}. To go on: {shlex.join(['jaxcnn', *command])}"

    return text


def _lost_advice(error: Exception) -> str:
    first = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return (
        f"{first}\nIf a connection broke, another process ended first: its last lines say why. The same "
        "command for all processes resumes from the newest checkpoint"
    )


def _start(options: argparse.Namespace) -> None:
    """Sets up compilation, and joins this process with the other processes of the run, if any."""
    from jaxcnn.parallel import distributed, xla_options
    from jaxcnn.parallel.compilation_cache import use_compilation_cache

    xla_options.require_determinism(options.deterministic)
    rows = []
    if options.compilation_cache:
        rows.append(use_compilation_cache(os.environ, options.compilation_cache))
    processes = distributed.parse(options.distributed, os.environ)
    if processes is not None:
        distributed.start(processes, options.distributed_timeout)
        print(distributed.describe(), flush=True)
    for name, text in [] if is_follower() else rows:
        print(f"{name:<8} {text}", flush=True)


def parser() -> argparse.ArgumentParser:
    result = make_parser(
        "train",
        notes="--config.SECTION.KEY=VALUE overrides a key of the config; --print_config shows all keys.",
        example="jaxcnn train --config=vgg_e --config.batch_size=64 --config.data.source=folder:PATH",
    )
    add = result.add_argument
    add("--config", default="quickstart", help="file, or name of a file in configs/ (%(default)s)")
    add("--workdir", default="", help="folder of the run (runs/NAME)")
    add(
        "--distributed",
        default="auto",
        help="several processes as one run: auto (detects SLURM, Open MPI, Kubernetes and TPUs), off, or "
        "HOST:PORT,N,I: process 0 listens at HOST:PORT, this is process I of N (%(default)s)",
    )
    add(
        "--distributed_timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long processes wait for each other at the start (%(default)g)",
    )
    add(
        "--compilation_cache",
        default="",
        metavar="DIR",
        help="keep compiled programs in DIR for the next start; whoever can write to DIR can run code here",
    )
    add(
        "--deterministic",
        action="store_true",
        help="use only operations whose results do not depend on timing (on GPUs slower)",
    )
    add(
        "--dry_run",
        action="store_true",
        help="run one step at the real shapes; print its memory and time",
    )
    add(
        "--print_config",
        action="store_true",
        help="print every key, its value and its origin; train nothing",
    )
    return result
