"""Starts distributed JAX: parses --distributed, waits for the other processes, and explains failures.

If processes do not connect in time, JAX prints a C++ stack trace and aborts, which Python cannot catch; if
the port of process 0 is in use, it crashes. Therefore a thread ends the wait first, and we check the port.
Only `start` and `describe` import JAX.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator

from jaxcnn.parallel.accelerators import Environment
from jaxcnn.parallel.launcher_hints import Processes, StartError, detect, split_address

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


def parse(text: str, environment: Environment) -> Processes | None:
    """Parses the value of --distributed, with `environment` for `auto`.

    Returns:
        None if this process trains alone: for `off`, and for `auto` if it was started alone.

    Raises:
        ValueError: the text or a variable is invalid; the message says what to type.
        StartError: for `auto`: this process was started with others, but how to reach them is unknown.
    """
    if text in ("off", "auto"):
        return detect(environment) if text == "auto" else None
    given = re.fullmatch(r"(.+),([0-9]+),([0-9]+)", text)
    if given is None:
        raise ValueError(f"{USAGE}. Got {text!r}")
    try:
        return Processes("--distributed", int(given[2]), int(given[3]), given[1], "deactivate")
    except ValueError as error:
        raise ValueError(f"{error}. {USAGE}") from None


def start(processes: Processes, timeout: float = 300.0) -> None:
    """Initializes JAX on all processes. Must be called once, before any use of devices.

    Args:
        timeout: seconds to wait for the other processes. After that, this process prints what to check and
            exits with code 1.

    Raises:
        StartError: JAX does not find the others, its port is in use, or the processes were given
            inconsistent counts or indices.
    """
    import jax

    # jaxcnn handles SIGTERM; JAX's preemption service would replace its handler.
    jax.config.update("jax_enable_preemption_service", False)
    if processes.port is not None:
        os.environ["JAX_COORDINATOR_PORT"] = str(processes.port)  # read by JAX's detection
    if processes.index == 0 and "JAX_COORDINATOR_BIND_ADDRESS" not in os.environ:
        _check_free(processes)
    ids = processes.local_device_ids
    try:
        with _bounded(processes, timeout):
            jax.distributed.initialize(
                coordinator_address=processes.coordinator,
                num_processes=processes.count,
                process_id=processes.index,
                local_device_ids=None if ids is None else list(ids),
                cluster_detection_method=processes.detection,
                initialization_timeout=math.ceil(timeout) + 60,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=HEARTBEAT_SECONDS,
            )
        counted = jax.process_count(), jax.process_index()
    except (RuntimeError, ValueError, KeyError, ImportError, OSError) as error:
        raise StartError(
            f"{_name(processes)} did not start: {error}. To set the processes explicitly: "
            f"--distributed=HOST:PORT,N,I; for a single one: --distributed=off.{_hint(processes)}"
        ) from error
    if processes.count is not None and counted != (processes.count, processes.index):
        raise StartError(
            f"this is {_name(processes)}, but JAX has {counted[0]} processes and gave this one index "
            f"{counted[1]}: pass the same HOST:PORT and N to all, and a different I to each"
        )


def describe() -> str:
    """Describes the started process: `process 1/4, 2 local devices, 8 global`, indices from 0."""
    import jax

    process = f"process {jax.process_index()}/{jax.process_count()}"
    return f"{process}, {jax.local_device_count()} local devices, {jax.device_count()} global"


def _check_free(processes: Processes) -> None:
    """Checks that this process can listen at its port; JAX would crash, or share it with another run."""
    port = split_address(processes.coordinator)[1] if processes.coordinator else processes.port
    if port is None:
        return
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
def _bounded(processes: Processes, timeout: float) -> Iterator[None]:
    """Prints what this process waits for after PATIENCE_SECONDS, and ends it after `timeout` seconds."""
    done, patience = threading.Event(), min(PATIENCE_SECONDS, timeout / 2)

    def watch() -> None:
        if done.wait(patience):
            return
        text = f"{_name(processes)} waits for the others, {timeout:.0f} s at most: {_trouble(processes)}"
        print(text, file=sys.stderr, flush=True)
        if done.wait(timeout - patience):
            return
        text = f"{_name(processes)} waited {timeout:.0f} s for the others: {_trouble(processes)}"
        print(f"error: {text}", file=sys.stderr, flush=True)
        os._exit(1)  # the main thread waits in JAX, where no exception reaches it

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _trouble(processes: Processes) -> str:
    """Why this process may still be waiting, and what to check."""
    address = processes.coordinator
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src import distributed  # no public API says the address that JAX detected

        address = address or distributed.global_state.coordinator_address
    if address is None:
        return f"JAX is looking for process 0.{_hint(processes)}"
    host, _, port = address.rpartition(":")
    check = (
        f"Check that process 0 runs on {host} (see its log), that no firewall blocks the port, and that all "
        f"processes were given the same HOST:PORT and N.{_hint(processes)}"
    )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
    except socket.gaierror:
        return f"process 0 at {address}: the name {host} does not resolve here. {check}"
    except OSError as error:
        known = f"nothing listens there, or the connection is blocked ({error})"
        return f"process 0 at {address}: {known}. {check}"
    return f"process 0 answers at {address}, but not all of the others do: see their logs. {check}"


def _name(processes: Processes) -> str:
    if processes.count is None:
        return f"this process ({processes.found_by})"
    return f"process {processes.index}/{processes.count} ({processes.found_by})"


def _hint(processes: Processes) -> str:
    """Further causes of a failed connection, by launcher and environment."""
    text = ""
    if processes.detection != "deactivate":
        text += (
            " Where JAX takes the wrong machine for that of process 0, set JAX_COORDINATOR_ADDRESS=HOST:PORT "
            "for all processes."
        )
    if processes.count is None:
        text += " On TPUs, jaxcnn[tpu] must be installed on each machine."
    if proxies := sorted(name for name in os.environ if "_proxy" in name.lower()):
        text += f" JAX may try to connect through a proxy: unset {', '.join(proxies)}."
    return text
