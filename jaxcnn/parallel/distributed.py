"""Starts distributed JAX: parses --distributed, waits for the coordinator, and explains failures.

If initialization fails, JAX prints a C++ stack trace and aborts, which Python cannot catch. Therefore we
check first for an unreachable coordinator, a port in use, and processes that would each train alone. Only
`start` and `describe` import JAX.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator

from jaxcnn.parallel.accelerators import Environment
from jaxcnn.parallel.launcher_hints import Processes, detect, launcher_hints, split_address

__all__ = ["Processes", "StartError", "describe", "parse", "start"]

# A process without a heartbeat for this long counts as dead, and the others exit.
HEARTBEAT_SECONDS = 30
# A start that takes longer prints what it waits for.
PATIENCE_SECONDS = 15.0

USAGE = (
    "--distributed takes auto, off or HOST:PORT,N,I: process 0 listens at HOST:PORT, N is the number of "
    "processes and I the index of this one, from 0. For the first of four: --distributed=node1:8476,4,0; "
    "for the last: --distributed=node1:8476,4,3"
)


class StartError(RuntimeError):
    """The processes could not connect; the message says what to check."""


def parse(text: str, environment: Environment) -> Processes | None:
    """Parses the value of --distributed, with `environment` for `auto`.

    Returns:
        None if this process trains alone: for `off`, and for `auto` without a cluster or with one process.

    Raises:
        ValueError: the text or a variable is invalid; the message says what to type.
        StartError: for `auto`: this process was started with others, but how to reach them is unknown.
    """
    if text == "off":
        return None
    if text == "auto":
        found = detect(environment)
        if found is not None and found.count > 1:
            return found
        _check_alone(environment)
        return None
    given = re.fullmatch(r"(.+),([0-9]+),([0-9]+)", text)
    if given is None:
        raise ValueError(f"{USAGE}. Got {text!r}")
    try:
        return Processes("--distributed", given[1], int(given[2]), int(given[3]))
    except ValueError as error:
        raise ValueError(f"{error}. {USAGE}") from None


def _check_alone(environment: Environment) -> None:
    """Raises StartError if a process about to train alone was started with others."""
    size, index, count = launcher_hints(environment) or ("", "", 1)
    if count == 1:
        return
    missing = "the address of process 0 is unknown"
    if index == "TPU_WORKER_ID":
        missing = "JAX can use no TPU here (is jaxcnn[tpu] installed and JAX_PLATFORMS unset?)"
    total = "N" if size == index else count
    raise StartError(
        f"{size}={environment[size]} means that at least {count} processes were started together, but "
        f"{missing}. Each would train alone and write to the same workdir. Pass each its index: "
        f"sh -c 'jaxcnn train ... --distributed=HOST:PORT,{total},${index}'. For independent "
        "runs: --distributed=off, with a different --workdir for each"
    )


def start(processes: Processes, timeout: float = 300.0) -> None:
    """Initializes JAX on all processes. Must be called once, before any use of devices.

    Args:
        timeout: seconds to wait for process 0, and then for all processes.

    Raises:
        StartError: the coordinator does not answer, its port is in use, or the processes were given
            inconsistent counts or indices. If process 0 answers but others never connect, JAX aborts (exit
            code 134).
    """
    import jax

    # jaxcnn handles SIGTERM; JAX's preemption service would replace its handler.
    jax.config.update("jax_enable_preemption_service", False)
    where = {}
    with _report_if_slow(processes, timeout):
        if processes.coordinator:
            _meet(processes, timeout)
            ids = processes.local_device_ids
            where = {
                "coordinator_address": processes.coordinator,
                "num_processes": processes.count,
                "process_id": processes.index,
                "local_device_ids": None if ids is None else list(ids),
                "cluster_detection_method": "deactivate",
            }
        try:
            jax.distributed.initialize(
                **where,
                initialization_timeout=math.ceil(timeout),
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=HEARTBEAT_SECONDS,
            )
            counted = jax.process_count(), jax.process_index()
        except (RuntimeError, ValueError, OSError) as error:
            text = f"{_name(processes)} did not start: {error}{_hint(processes)}"
            raise StartError(text) from error
    if counted != (processes.count, processes.index):
        raise StartError(
            f"this is {_name(processes)}, but JAX has {counted[0]} processes and gave this one index "
            f"{counted[1]}: pass the same HOST:PORT and N to all, and a different I to each"
        )


def describe() -> str:
    """Describes the started process: `process 1/4, 2 local devices, 8 global`, indices from 0."""
    import jax

    process = f"process {jax.process_index()}/{jax.process_count()}"
    return f"{process}, {jax.local_device_count()} local devices, {jax.device_count()} global"


def _meet(processes: Processes, timeout: float) -> None:
    """Waits until process 0 listens; on process 0, checks that it can."""
    host, port = split_address(processes.coordinator)
    if processes.index:
        _wait_for(processes, host, port, timeout)
    elif "JAX_COORDINATOR_BIND_ADDRESS" not in os.environ:
        _check_free(processes, port)


def _wait_for(processes: Processes, host: str, port: int, timeout: float) -> None:
    began = time.monotonic()
    while True:
        left = began + timeout - time.monotonic()
        try:
            socket.create_connection((host, port), timeout=max(1.0, min(left, 10.0))).close()
            return
        except OSError as error:
            trouble, known = error, f"nothing listens there, or the connection is blocked ({error})"
        waited = time.monotonic() - began
        if waited >= timeout:
            break
        time.sleep(min(0.5, timeout - waited))
    if isinstance(trouble, socket.gaierror):
        known = f"the name {host} does not resolve here"
    raise StartError(
        f"{_name(processes)} waited {waited:.0f} s for process 0 at {processes.coordinator}: {known}. "
        f"Check that process 0 runs on {host} (see its log), that no firewall blocks the port, and that all "
        f"processes were given the same HOST:PORT and N.{_hint(processes)}"
    ) from trouble


def _check_free(processes: Processes, port: int) -> None:
    """Checks that this process can listen at `port`; JAX would crash, or share the port with another run."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    try:
        with socket.create_server(
            ("", port), family=family, dualstack_ipv6=family == socket.AF_INET6
        ):
            pass
    except OSError as error:
        raise StartError(
            f"{_name(processes)} cannot listen at port {port} here ({error}). Does another run use this "
            "machine? Choose another port, the same for all processes: --distributed=HOST:PORT,N,I, or "
            "set JAX_COORDINATOR_PORT if the cluster was detected"
        ) from error


@contextlib.contextmanager
def _report_if_slow(processes: Processes, timeout: float) -> Iterator[None]:
    """Prints to stderr what this process waits for, after PATIENCE_SECONDS."""
    at = f" at {processes.coordinator}" if processes.coordinator else ""
    text = (
        f"{_name(processes)} is still waiting for the others{at}, {timeout:.0f} s at most; "
        f"DEADLINE_EXCEEDED after that means that one of them never connected.{_hint(processes)}"
    )
    timer = threading.Timer(PATIENCE_SECONDS, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _name(processes: Processes) -> str:
    return f"process {processes.index}/{processes.count} ({processes.found_by})"


def _hint(processes: Processes) -> str:
    """Further causes of a failed connection, by launcher and environment."""
    text = ""
    if not processes.coordinator:
        text += (
            " On TPUs, JAX finds the other processes itself: is jaxcnn[tpu] installed on each? To set them "
            "explicitly: --distributed=HOST:PORT,N,I."
        )
    if processes.found_by.startswith("Open MPI"):
        text += (
            " Process 0 is assumed to run on mpirun's host; if it does not, set JAX_COORDINATOR_ADDRESS="
            "HOST:PORT for all processes (mpirun -x)."
        )
    if proxies := sorted(name for name in os.environ if "_proxy" in name.lower()):
        text += f" JAX may try to connect through a proxy: unset {', '.join(proxies)}."
    return text
