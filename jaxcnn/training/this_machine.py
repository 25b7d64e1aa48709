"""Whether a process of this machine still runs."""

from __future__ import annotations

import os
import pathlib


def machine() -> str:
    """What processes share that see each other's numbers: not containers, which may have the host's name."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def process_start(process: int) -> str:
    """When a process of this machine started, in ticks; '' if there is none."""
    try:
        text = pathlib.Path(f"/proc/{process}/stat").read_text("latin-1")
    except OSError:
        return ""
    state, *fields = text.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]  # a zombie has ended
