"""How a tool that reads finished runs ends: a line and an exit code instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

EXIT_DONE, EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_STOPPED = 0, 1, 2, 130, 143


def outcome(work: Callable[[], int | None], kept: str) -> int:
    """Does `work`, which may return an exit code of its own. What is wrong with the input becomes a line.

    Args:
        kept: what to tell whoever stopped it: what is lost, what is not.
    """
    try:
        return _outcome(work, kept)
    except KeyboardInterrupt:  # libraries may still be imported
        print(f"interrupted; {kept}", file=sys.stderr)
        return EXIT_INTERRUPTED


def _outcome(work: Callable[[], int | None], kept: str) -> int:
    from jaxcnn.config import ConfigError
    from jaxcnn.training import Stopped
    from jaxcnn.training.checkpoint import CheckpointError
    from jaxcnn.training.workdir import WorkdirError

    try:
        return work() or EXIT_DONE
    except ConfigError as error:
        print(f"config error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (ValueError, OSError, CheckpointError, WorkdirError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except Stopped as error:
        print(f"stopped by {error}; {kept}", file=sys.stderr)
        return EXIT_STOPPED


def out_folder(path: str | Path) -> Path:
    """The folder that --out means, made, before any work is done for it.

    Raises:
        OSError: it cannot be.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the folder {path} ({error.strerror}); give another --out"
        ) from error
    return Path(path)
