"""How a command ends: an error becomes a line on stderr and an exit code instead of a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from jaxcnn.file_errors import WriteError, disk_advice
from jaxcnn.folders import check_writable
from jaxcnn.paths import Path, is_bucket_name
from jaxcnn.printable import say
from jaxcnn.streams import is_paused

EXIT_DONE, EXIT_ERROR, EXIT_USAGE, EXIT_DIVERGED = 0, 1, 2, 3
EXIT_INTERRUPTED, EXIT_STOPPED = 130, 143


class UsageError(ValueError):
    """Arguments that cannot be used, or not together."""


def exit_code(
    work: Callable[[], int | None],
    *,
    kept: str | Callable[[], str],
    config: Mapping[str, Any] = MappingProxyType({}),
) -> int:
    """Calls `work` and returns its exit code, or that of the error that it raised.

    Args:
        work: returns an exit code, or None for 0.
        kept: says after a stop what is saved, and how to resume.
        config: the run's config, for advice when memory runs out; `work` may fill it in.

    Raises:
        Exception: errors that no input explains, which are bugs.
    """
    try:
        return work() or EXIT_DONE
    except KeyboardInterrupt:  # before or without a handler of signals
        return _stopped("interrupted", kept, EXIT_INTERRUPTED)
    except Exception as error:
        # Imported here, so that --help answers at once.
        try:
            from jaxcnn.training import Stopped
        except Exception:  # JAX_NUM_CPU_DEVICES=two
            text = f"JAX cannot be imported ({error}); check the variables that begin with JAX_"
            return fail("error", text, EXIT_ERROR)

        if isinstance(error, Stopped):
            what = "\n".join([f"stopped by {error}", *getattr(error, "__notes__", ())])
            return _stopped(what, kept, EXIT_STOPPED)
        found = _of_error(error, config)
        if found is None:
            raise
        return fail(*found)


def fail(what: str, detail: object, code: int) -> int:
    """Prints `what: detail` and the detail's notes on stderr, and returns `code`."""
    lines = [f"{what}: {detail}", *getattr(detail, "__notes__", ())]
    say("\n".join(lines), sys.stderr)
    return code


def end_process(code: int) -> NoReturn:
    """Ends this process. Everything is saved by now. The shutdown of the interpreter is left out if it would
    meet threads that hang in a read of data, or wait for a reader of the output that pauses."""
    threads = sys.modules.get("jaxcnn.data.threads")
    if not (threads is not None and threads.busy_threads()) and not is_paused():
        sys.exit(code)
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        jax.distributed.shutdown()  # the other processes wait for it
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _stopped(what: str, kept: str | Callable[[], str], code: int) -> int:
    if not is_follower():  # process 0 reports for all
        text = kept if isinstance(kept, str) else kept()
        say(f"{what}; {text}", sys.stderr)
    return code


def _of_error(error: Exception, config: Mapping[str, Any]) -> tuple[str, object, int] | None:
    from jaxcnn.config import ConfigError
    from jaxcnn.data import DataError
    from jaxcnn.jax_settings import missing_platform
    from jaxcnn.parallel import PeerFailed
    from jaxcnn.parallel.distributed import StartError
    from jaxcnn.training import Diverged
    from jaxcnn.training.checkpoint import CheckpointError
    from jaxcnn.training.workdir_lock import WorkdirError

    if isinstance(error, UsageError):
        return "usage error", error, EXIT_USAGE
    if isinstance(error, ConfigError):
        return "config error", error, EXIT_USAGE
    if isinstance(error, Diverged):
        return "diverged", error, EXIT_DIVERGED
    known = (DataError, CheckpointError, WorkdirError, PeerFailed, StartError, ValueError, OSError)
    if (
        isinstance(error, OSError)
        and is_bucket_name(str(error.filename))
        and not isinstance(error, WriteError)  # which says it itself
    ):
        error = OSError(f"{error.filename}: {error.strerror}; {disk_advice(error)}")
    if isinstance(error, known):
        return "error", error, EXIT_ERROR
    if isinstance(error, MemoryError):
        error.add_note("use a smaller --batch_size, --config.batch_size or --config.data.prefetch")
        return "out of memory", error, EXIT_ERROR
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        text = f"{error}: raise the limit on processes (ulimit -u, or a container's pids limit)"
        return "error", text, EXIT_ERROR
    if isinstance(error, RuntimeError | AssertionError) and (text := missing_platform()):
        return "error", text, EXIT_ERROR
    if "RESOURCE_EXHAUSTED" in str(error):
        return "out of memory", _memory_advice(error, config), EXIT_ERROR
    return None


def _memory_advice(error: Exception, config: Mapping[str, Any]) -> str:
    first = str(error).splitlines()[0][:200]
    if "batch_size" not in config:
        return f"{first}\ntry a smaller --batch_size"
    return (
        f"{first}\nthe step does not fit; try --config.batch_size={max(1, config['batch_size'] // 2)}, "
        "--config.grad_accum_steps=2 (same batch in two halves), --config.model.remat=True, or "
        "--config.model.dtype=bfloat16"
    )


def process_name() -> str:
    """`process 1/2` where several processes train together, else ''."""
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized() or jax.process_count() == 1:
        return ""
    return f"process {jax.process_index()}/{jax.process_count()}"


def is_follower() -> bool:
    """Whether process 0, which is another one, reports for this one."""
    name = process_name()
    return bool(name) and not name.startswith("process 0/")


def make_folder(path: Path) -> None:
    """Makes the folder that --out names before any work is done for it, and proves that it can be written.

    Raises:
        OSError: it cannot be made or written.
    """
    try:
        check_writable(path)
    except OSError as error:
        advice = f"{disk_advice(error)}; or give another --out"
        raise OSError(f"cannot make the folder {path} ({error.strerror}); {advice}") from error
