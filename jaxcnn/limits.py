"""Limits of the system that are too low, found before any work instead of in a library's traceback."""

from __future__ import annotations

import contextlib
import resource

# Tried with a tiny net on two cores: 20 open files are too few and 40 enough; with 2.5 GB of addresses the
# libraries cannot be imported, with 3 GB JAX aborts, and 4 GB suffice.
FILES, ADDRESSES = 40, 4_000_000_000
# More are never open.
ENOUGH_FILES = 65_536


class LimitError(ValueError):
    """A limit of the system is too low; the message says what to type."""


def raise_limits() -> None:
    """Raises this process's limit on open files as far as it may, and checks what cannot be raised.

    Raises:
        LimitError: too few open files or addresses are allowed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_FILES)
    if 0 <= soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < FILES:
        raise LimitError(
            f"this process may open {soft} files and needs {FILES}; raise the limit and start again: "
            "ulimit -n 1024"
        )
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= addresses < ADDRESSES:
        raise LimitError(
            f"this process may use {addresses / 1e9:.2g} GB of addresses, too few to load TensorFlow and "
            "JAX; lift the limit and start again: ulimit -v unlimited (a container or a scheduler can bound "
            "the memory instead)"
        )
