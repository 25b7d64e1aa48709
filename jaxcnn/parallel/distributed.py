"""The start on many processes: what --distributed means, the wait for one another, and what went wrong.

What JAX says of a failed start is a stack trace from C++ that Python cannot catch, so whatever can be told
beforehand is: a coordinator that nobody reaches, a port that is taken, processes that each think they are
alone. Imports of JAX wait until it is started.
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

from jaxcnn.parallel.environment import Environment
from jaxcnn.parallel.launcher_hints import Processes, detect, launcher_hints, split_address

__all__ = ["Processes", "StartError", "check_not_alone", "describe", "parse", "start"]

# A process that is gone is noticed, and the others end, after so long.
HEARTBEAT_SECONDS = 30
# So long a start is silent.
PATIENCE_SECONDS = 15.0

USAGE = (
    "--distributed takes auto, off or HOST:PORT,N,I: process 0 listens at HOST:PORT, and this one is number "
    "I of N, counted from 0; the first of four: --distributed=node1:8476,4,0 and the last: "
    "--distributed=node1:8476,4,3"
)


class StartError(RuntimeError):
    """The processes did not find each other, with what to check."""


def parse(text: str, environment: Environment) -> Processes | None:
    """What `--distributed=text` means in `environment`.

    Returns:
        None where this process trains alone: `off`; `auto` without a cluster, or in one of one process.

    Raises:
        ValueError: a text or a variable that cannot be read, with what to type.
    """
    if text == "off":
        return None
    if text == "auto":
        found = detect(environment)
        return found if found is not None and found.count > 1 else None
    given = re.fullmatch(r"(.+),([0-9]+),([0-9]+)", text)
    if given is None:
        raise ValueError(f"{USAGE}. Got {text!r}")
    try:
        return Processes("--distributed", given[1], int(given[2]), int(given[3]))
    except ValueError as error:
        raise ValueError(f"{error}. {USAGE}") from None


def check_not_alone(environment: Environment, processes: Processes | None) -> None:
    """After `parse("auto", ...)`: where this process would train alone, nothing may say that others do too.

    Raises:
        StartError: something does. Each process would train by itself and write the same workdir.
    """
    sign = launcher_hints(environment)
    if processes is not None or sign is None or sign[2] == 1:
        return
    size, index, count = sign
    missing = "nothing says where process 0 of them listens"
    if index == "TPU_WORKER_ID":
        missing = "JAX can use no TPU here (is jaxcnn[tpu] installed, JAX_PLATFORMS unset?)"
    total = "N" if size == index else count
    raise StartError(
        f"{size}={environment[size]} says that {count} processes or more were started together, but "
        f"{missing}. Each would train alone and write the same workdir. Give each its number: "
        f"sh -c 'jaxcnn train ... --distributed=HOST:PORT,{total},${index}'. For runs that have nothing to "
        "do with each other: --distributed=off, each with a --workdir of its own"
    )


def start(processes: Processes, timeout: float = 300.0) -> None:
    """Starts JAX on all processes together. To be called once, before anything asks for devices.

    Args:
        timeout: seconds to wait for process 0, and then for all.

    Raises:
        StartError: nobody answers at the coordinator's address, its port is taken, or the processes were
            given different numbers. If process 0 answers and others never come, JAX aborts (exit code 134).
    """
    import jax

    # jaxcnn answers SIGTERM itself, alone and with others; JAX's own handler would take it away.
    jax.config.update("jax_enable_preemption_service", False)
    where = {}
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
        with _told_when_slow(processes, timeout):
            jax.distributed.initialize(
                **where,
                initialization_timeout=math.ceil(timeout),
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=HEARTBEAT_SECONDS,
            )
            counted = jax.process_count(), jax.process_index()
    except (RuntimeError, ValueError) as error:
        raise StartError(f"{_name(processes)} did not start: {error}{_hint(processes)}") from error
    if counted != (processes.count, processes.index):
        raise StartError(
            f"this is {_name(processes)}, but JAX counts {counted[0]} processes and takes it for number "
            f"{counted[1]}: give all of them the same HOST:PORT and N, and each another I"
        )


def describe() -> str:
    """Of a start: `process 1/4, 2 local devices, 8 global`. The first process is 0."""
    import jax

    process = f"process {jax.process_index()}/{jax.process_count()}"
    return f"{process}, {jax.local_device_count()} local devices, {jax.device_count()} global"


def _meet(processes: Processes, timeout: float) -> None:
    host, port = split_address(processes.coordinator)
    if processes.index:
        with _told_when_slow(processes, timeout):
            _wait_for(processes, host, port, timeout)
    elif "JAX_COORDINATOR_BIND_ADDRESS" not in os.environ:
        _check_free(processes, port)


def _wait_for(processes: Processes, host: str, port: int, timeout: float) -> None:
    """Returns once something listens at the coordinator's address."""
    began = time.monotonic()
    while True:
        left = began + timeout - time.monotonic()
        try:
            socket.create_connection((host, port), timeout=max(1.0, min(left, 10.0))).close()
            return
        except socket.gaierror as error:
            trouble, known = error, f"the name {host} does not resolve here"
        except OSError as error:
            trouble, known = error, f"nothing listens there or nothing gets through ({error})"
        waited = time.monotonic() - began
        if waited >= timeout:
            raise StartError(
                f"{_name(processes)} waited {waited:.0f} s for process 0 at {processes.coordinator}: "
                f"{known}. Check that process 0 runs (what does its log say?) on the machine that {host} "
                "names, that no firewall is in between, and that all were given the same HOST:PORT and N."
                f"{_hint(processes)}"
            ) from trouble
        time.sleep(min(0.5, timeout - waited))


def _check_free(processes: Processes, port: int) -> None:
    """Process 0 can listen at its port. If not, JAX would crash, or share it with this user's other run."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            trial.bind(("", port))
        except OSError as error:
            raise StartError(
                f"{_name(processes)} cannot listen at port {port} here ({error}): is another run on this "
                "machine? Choose another port, the same for all: --distributed=HOST:PORT,N,I, or "
                "JAX_COORDINATOR_PORT in the environment where a cluster was found"
            ) from error


@contextlib.contextmanager
def _told_when_slow(processes: Processes, timeout: float) -> Iterator[None]:
    """Says on stderr what is waited for, once it takes long."""
    text = (
        f"{_name(processes)} still waits for the others{_at(processes)}, {timeout:.0f} s at most; "
        f"DEADLINE_EXCEEDED after that means that one of them never came.{_hint(processes)}"
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


def _at(processes: Processes) -> str:
    return f" at {processes.coordinator}" if processes.coordinator else ""


def _hint(processes: Processes) -> str:
    """What else has kept processes apart."""
    text = ""
    if not processes.coordinator:
        text += (
            " On TPUs JAX looks for the others itself: is jaxcnn[tpu] installed on each? By hand: "
            "--distributed=HOST:PORT,N,I."
        )
    if processes.found_by.startswith("Open MPI"):
        text += (
            " Process 0 is taken to run where mpirun does; where it does not, set JAX_COORDINATOR_ADDRESS="
            "HOST:PORT for all (mpirun -x)."
        )
    proxies = sorted(name for name in os.environ if "_proxy" in name.lower())
    if proxies:
        text += f" JAX may try to connect through a proxy: unset {', '.join(proxies)}."
    return text
