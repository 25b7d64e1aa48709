"""The start of several processes: the wait for process 0, and what is reported before JAX would abort.

Tests of processes that connect are in test_processes.py."""

import ast
import re
import socket
from pathlib import Path

import pytest

from jaxcnn.parallel import accelerators, distributed, launcher_hints
from jaxcnn.parallel.distributed import Processes, StartError
from tests.parallel.launchers import free_port


class FakeClock:
    """Replaces the `time` module: only sleeping advances the clock."""

    def __init__(self):
        self.sleeps = []

    def monotonic(self):
        return sum(self.sleeps)

    def sleep(self, seconds):
        self.sleeps.append(seconds)


def test_a_process_waits_for_process_0_until_the_timeout(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    clock = FakeClock()
    monkeypatch.setattr(distributed, "time", clock)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(
        StartError, match=re.escape(f"process 1/2 (SLURM) waited 2 s for process 0 at {address}")
    ) as e:
        distributed.start(Processes("SLURM", address, 2, 1), timeout=2.0)
    assert clock.sleeps == [0.5] * 4  # five attempts, the last one at the timeout
    for advice in (
        "nothing listens there",
        "firewall",
        "same HOST:PORT and N",
        "unset HTTPS_PROXY",
    ):
        assert advice in str(e.value)


def test_a_host_name_that_does_not_resolve_is_reported():
    processes = Processes("Open MPI 5", "no-such-host.invalid:8476", 2, 1)
    with pytest.raises(
        StartError, match=r"the name no-such-host\.invalid does not resolve here"
    ) as said:
        distributed.start(processes, timeout=0.2)
    assert "JAX_COORDINATOR_ADDRESS=HOST:PORT" in str(said.value)


def test_a_port_in_use_is_reported():
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartError, match=rf"process 0/2 .* cannot listen at port {port} here"):
            distributed.start(Processes("--distributed", f"localhost:{port}", 2, 0), timeout=1.0)


def test_a_long_wait_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(distributed, "PATIENCE_SECONDS", 0.05)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(StartError):
        distributed.start(Processes("--distributed", address, 2, 1), timeout=0.3)
    assert (
        f"process 1/2 (--distributed) is still waiting for the others at {address}"
        in capsys.readouterr().err
    )


def test_only_a_start_imports_jax():
    """Flags are parsed and checked before JAX is imported."""
    for module in (distributed, launcher_hints, accelerators):
        for node in ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                assert not {a.name.split(".")[0] for a in node.names} & {"jax", "tensorflow"}
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in ("jax", "tensorflow")
