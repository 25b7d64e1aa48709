"""glibc malloc on Linux: transparent huge pages, and returning freed memory to the system.

A training step on a CPU allocates gigabytes anew; mapping them in pages of 4 KiB takes a fifth of the step
time of VGG D and AlexNet. glibc reads the setting when a program starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import MutableMapping

VARIABLE, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
_DEBUGGERS_AND_PROFILERS = {"pdb", "pydevd", "debugpy", "cProfile"}


def large_pages(environment: MutableMapping[str, str]) -> bool:
    """Adds the huge-page setting to the environment of a program to be started, unless the user chose one.
    Returns whether `environment` was changed."""
    known = environment.get(VARIABLE, "")
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or "hugetlb" in known:
        return False
    environment[VARIABLE] = f"{known}:{SETTING}" if known else SETTING
    return True


def start_again_with_large_pages() -> None:
    """Re-executes this program in the same process if its environment lacks the setting.

    Does nothing under a debugger or profiler, which the new program image would drop.
    """
    observed = sys.gettrace() or sys.getprofile() or _DEBUGGERS_AND_PROFILERS & sys.modules.keys()
    if not observed and large_pages(os.environ):
        os.execv(sys.executable, sys.orig_argv)


def give_back_freed() -> None:
    """Returns freed memory to the system, which glibc does not always do. Compilation leaves up to a gigabyte
    of it, which would add to the memory of the first step."""
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
