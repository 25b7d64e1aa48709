"""The program behind main.py: flags in, exit code out."""

from __future__ import annotations

import argparse
import faulthandler
import importlib.metadata
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

EXIT_DONE, EXIT_ERROR, EXIT_USAGE, EXIT_DIVERGED, EXIT_STOPPED = 0, 1, 2, 3, 143


def main(arguments: Sequence[str], configs_folder: Path) -> int:
    """Runs what the command line asks for.

    Args:
        arguments: without the program's name.
        configs_folder: where bare config names are looked up.

    Returns:
        0 done, 1 error, 2 usage, 3 diverged, 143 stopped by a signal with the state saved.
    """
    options, overrides = _parse(arguments)
    faulthandler.enable(
        sys.__stderr__ or sys.stderr
    )  # a fatal error in a library says where every thread was
    # Imported here, so that --help answers at once.
    from jaxcnn import config as configs
    from jaxcnn.training import run, schema
    from jaxcnn.training.dry_run import dry_run

    path = Path(options.config)
    workdir = options.workdir or f"runs/{path.stem}"
    again = shlex.join(["python", "main.py", *arguments])
    resolved: dict[str, Any] = {}

    def work() -> None:
        set_up = {} if options.print_config else _start(options)
        given, config = schema.read_resolved(options.config, overrides, configs_folder)
        resolved.update(config)
        if options.print_config:
            print(configs.format_config(config, given, overrides))
        elif options.dry_run:
            print(dry_run(config))
        else:
            run(config, workdir, command=["main.py", *arguments], set_up=set_up)

    try:
        code = exit_code(work, again=again, workdir=workdir, config=resolved)
    except Exception as error:
        if not _shared():
            raise
        traceback.print_exc()
        code = _fail(_shared(), _lost_advice(error), EXIT_ERROR)
    if code not in (EXIT_DONE, EXIT_DIVERGED, EXIT_STOPPED) and _shared():
        from jaxcnn.parallel import leave_process_group

        leave_process_group(code)
    return code


def exit_code(
    work: Callable[[], None],
    *,
    again: str,
    workdir: str | Path,
    config: Mapping[str, Any] = MappingProxyType({}),
) -> int:
    """Does `work`. What is wrong with the input, and a stop, become a line and an exit code.

    Args:
        again: what to type to go on.
        workdir: where a stopped run is saved.
        config: of the run, resolved, for advice when memory runs out; `work` may fill it in.
    """
    from jaxcnn.config import ConfigError
    from jaxcnn.data import DataError
    from jaxcnn.parallel import PeerFailed
    from jaxcnn.parallel.distributed import StartError
    from jaxcnn.training import Diverged, Stopped
    from jaxcnn.training.checkpoint import CheckpointError
    from jaxcnn.training.workdir import WorkdirError

    try:
        work()
    except ConfigError as error:
        return _fail("config error", error, EXIT_USAGE)
    except Diverged as error:
        return _fail("diverged", error, EXIT_DIVERGED)
    except KeyboardInterrupt:
        return _fail("interrupted", f"nothing was trained yet. To start again: {again}", 130)
    except Stopped as error:
        if _follows():
            return EXIT_STOPPED  # process 0 says it
        folder = Path(workdir).absolute()
        saved = any(entry.name.isdigit() for entry in (folder / "checkpoints").glob("*"))
        left = (
            f"the state is saved in {folder}" if saved else f"nothing was trained yet in {folder}"
        )
        print(f"stopped by {error}; {left}. To go on: {again}", flush=True)
        return EXIT_STOPPED
    except (
        *(DataError, CheckpointError, WorkdirError, PeerFailed, StartError),
        *(ValueError, OSError),
    ) as error:
        return _fail("error", error, EXIT_ERROR)
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _fail("out of memory", _memory_advice(error, config["batch_size"]), EXIT_ERROR)
    return EXIT_DONE


def _shared() -> str:
    """`process 1/2` where several train together, else ''."""
    import jax

    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return ""
    return f"process {jax.process_index()}/{jax.process_count()}"


def _follows() -> bool:
    """Whether another process speaks for this one."""
    return bool(_shared()) and not _shared().startswith("process 0/")


def _lost_advice(error: Exception) -> str:
    first = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return (
        f"{first}\nIf a connection broke, another process ended first: its own last lines say why. The same "
        "command for all of them goes on from the newest checkpoint"
    )


def _start(options: argparse.Namespace) -> dict[str, Any]:
    """Sets XLA's flags and the cache, and joins this process with the others, where there are any.

    Returns:
        What was set, for run.json.
    """
    from jaxcnn.parallel import distributed, xla_options
    from jaxcnn.parallel.compilation_cache import use_compilation_cache

    prepared = xla_options.prepare(
        os.environ,
        platform=xla_options.guess_platform(os.environ),
        version=importlib.metadata.version("jaxlib"),
        deterministic=options.deterministic,
    )
    rows = prepared.lines()
    if options.compilation_cache:
        rows.append(use_compilation_cache(os.environ, options.compilation_cache))
    processes = distributed.parse(options.distributed, os.environ)
    if processes is None and options.distributed == "auto":
        distributed.check_not_alone(os.environ, processes)
    if processes is not None:
        distributed.start(processes, options.distributed_timeout)
        print(distributed.describe(), flush=True)
    for name, text in [] if _follows() else rows:
        print(f"{name:<8} {text}", flush=True)
    return prepared.record()


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="main.py",
        allow_abbrev=False,
        description="Trains and evaluates a config. The same workdir again goes on where it left.",
        epilog="Any key of the config: --config.SECTION.KEY=VALUE, for example --config.batch_size=64 "
        "--config.data.source=folder:PATH. Exit codes: 0 done, 1 error, 2 usage, 3 diverged, "
        "143 stopped by a signal with the state saved.",
    )
    parser.add_argument(
        "--config", default="quickstart", help="file, or name of one in configs/ (%(default)s)"
    )
    parser.add_argument("--workdir", default="", help="where the run is kept (runs/NAME)")
    parser.add_argument(
        "--distributed",
        default="auto",
        help="several processes as one run: auto asks SLURM, Open MPI, Kubernetes and TPUs; off; or "
        "HOST:PORT,N,I: process 0 listens at HOST:PORT, this one is number I of N (%(default)s)",
    )
    parser.add_argument(
        "--distributed_timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long processes wait for each other at the start (%(default)g)",
    )
    parser.add_argument(
        "--compilation_cache",
        default="",
        metavar="DIR",
        help="keep compiled programs in DIR for the next start; who can write there can run code here",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="rule out operations whose bits depend on timing (GPUs; slower)",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="one step of the real shapes; says memory and time"
    )
    parser.add_argument(
        "--print_config", action="store_true", help="print every key, its value and its origin"
    )
    mine = [a for a in arguments if not a.startswith("--config.")]
    overrides = [a.removeprefix("--config.") for a in arguments if a.startswith("--config.")]
    return parser.parse_args(mine), overrides


def _fail(what: str, error: object, code: int) -> int:
    print(f"{what}: {error}", file=sys.stderr, flush=True)
    return code


def _memory_advice(error: RuntimeError, batch_size: int) -> str:
    half = max(1, batch_size // 2)
    return (
        f"{str(error).splitlines()[0][:200]}\nthe step does not fit; try --config.batch_size={half}, "
        "--config.grad_accum_steps=2 (same batch in two halves), --config.model.remat=True, or "
        "--config.model.dtype=bfloat16"
    )
