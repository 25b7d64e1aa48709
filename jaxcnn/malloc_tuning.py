"""Memory that the C library hands out, on Linux: large pages for it, and its return.

A train step on a CPU asks for gigabytes anew at each step, and the kernel gives them page by page: 4 KiB at a
time that takes a fifth of the step of VGG D or AlexNet. The C library reads this setting when a program
starts, so it is for programs that are about to be started.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import MutableMapping

VARIABLE, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"


def large_pages(environment: MutableMapping[str, str]) -> bool:
    """Sets the environment of a program to come; what the user set of it stays. Whether it is changed."""
    known = environment.get(VARIABLE, "")
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or "hugetlb" in known:
        return False
    environment[VARIABLE] = f"{known}:{SETTING}" if known else SETTING
    return True


def start_again_with_large_pages() -> None:
    """Starts this program once more, in this process, where its environment lacks the setting."""
    if large_pages(os.environ):
        os.execv(sys.executable, sys.orig_argv)


def give_back_freed() -> None:
    """Hands memory that this process freed back to the system, where the C library does not do so by itself.
    A compilation leaves up to a gigabyte of it, on which the first step would come on top."""
    with contextlib.suppress(OSError, AttributeError):  # another library than glibc
        ctypes.CDLL(None).malloc_trim(0)
