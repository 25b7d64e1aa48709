"""Train and evaluate a config; the same command resumes a stopped run.

--config.SECTION.KEY=VALUE overrides a key of the config; --print_config shows all keys.

example: jaxcnn train --config=vgg_e --config.batch_size=64 --config.data.source=folder:PATH
"""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from jaxcnn.cli.arguments import Output, add_json, path
from jaxcnn.cli.exit_codes import (
    EXIT_DIVERGED,
    EXIT_DONE,
    EXIT_ERROR,
    EXIT_STOPPED,
    exit_code,
    fail,
    is_follower,
    process_name,
)  # fmt: skip
from jaxcnn.paths import Path, user_path
from jaxcnn.printable import say, shell_join
from jaxcnn.retries import STOP_SECONDS

KEPT = "nothing was trained yet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.set_defaults(overrides=())
    add("--config", default="quickstart", help="file, or name of a file in configs/ (%(default)s)")
    add("--workdir", type=path, help="folder of the run (runs/NAME)")
    help_text = (
        "several processes as one run: auto (detects SLURM, Open MPI, Kubernetes and TPUs), off, or "
        "HOST:PORT,N,I: process 0 listens at HOST:PORT, this is process I of N (%(default)s)"
    )
    add("--distributed", default="auto", help=help_text)
    help_text = "how long processes wait for each other at the start (%(default)g)"
    add("--distributed_timeout", type=float, default=300.0, metavar="SECONDS", help=help_text)
    help_text = "keep compiled programs in DIR for the next start; whoever can write to DIR can run code here"
    add("--compilation_cache", default="", metavar="DIR", help=help_text)
    help_text = (
        "resume although images changed since the last start; run.json and report.json say so"
    )
    add("--accept_changed_data", action="store_true", help=help_text)
    help_text = "use only operations whose results do not depend on timing (on GPUs slower)"
    add("--deterministic", action="store_true", help=help_text)
    help_text = "run one step at the real shapes; print its memory and time"
    add("--dry_run", action="store_true", help=help_text)
    help_text = "print every key, its value and its origin; train nothing"
    add("--print_config", action="store_true", help=help_text)
    add_json(
        parser,
        "print the results as one JSON list; with --print_config: the config; with --dry_run: its figures",
    )


def run(options: argparse.Namespace) -> Output:
    # A fatal error in a library prints where every thread was.
    faulthandler.enable(sys.__stderr__ or 2)
    workdir = options.workdir or user_path(f"runs/{pathlib.Path(options.config).stem}")
    config: dict[str, Any] = {}
    output = Output()

    def work() -> None:
        nonlocal output
        output = _work(options, workdir, config)

    try:
        code = exit_code(work, kept=kept_text(workdir, options.command_line), config=config)
    except Exception as error:
        if not process_name():
            raise
        traceback.print_exc()
        code = fail(process_name(), _lost_advice(error), EXIT_ERROR)
    if code not in (EXIT_DONE, EXIT_DIVERGED, EXIT_STOPPED) and process_name():
        from jaxcnn.parallel import leave_process_group

        leave_process_group(code)
    return dataclasses.replace(output, code=code)


def _work(options: argparse.Namespace, workdir: Path, config: dict[str, Any]) -> Output:
    """Does what the options say; fills in `config` as soon as it is known."""
    from jaxcnn import config as configs
    from jaxcnn.training import run, schema
    from jaxcnn.training.dry_run import dry_run

    if not options.print_config:
        _start(options)
    given, resolved = schema.read_resolved(options.config, options.overrides)
    config.update(resolved)
    if options.print_config:
        return Output(
            configs.with_version(config), configs.format_config(config, given, options.overrides)
        )
    if options.dry_run:
        return Output(*dry_run(config))
    accept = options.accept_changed_data
    report = run(config, workdir, command=options.command_line, accept_changed_data=accept)
    return Output() if is_follower() else Output(report["results"])


def kept_text(folder: Path, command: Sequence[str]) -> Callable[[], str]:
    """What to print after a stop: whether the workdir holds a state, and how to resume."""

    def text() -> str:
        try:
            state = "the state is saved in" if _has_state(folder) else "nothing was trained yet in"
        except OSError as error:
            state = f"whether a state is saved cannot be read ({error}) in"
        return f"{state} {folder}. To go on: {shell_join(command)}"

    return text


def _has_state(folder: Path) -> bool:
    from jaxcnn.data.threads import run_in_thread
    from jaxcnn.training.workdir import has_begun

    began = time.monotonic()

    def check() -> None:
        if time.monotonic() - began > STOP_SECONDS:
            raise TimeoutError(f"no answer in {STOP_SECONDS:.0f} s")

    return run_in_thread(lambda: has_begun(folder), check)


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
        say(distributed.describe())
    for name, text in [] if is_follower() else rows:
        say(f"{name:<8} {text}")
