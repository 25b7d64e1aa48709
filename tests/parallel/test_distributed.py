"""Distributed start: refused values, the wait for process 0, and two processes that connect."""

import ast
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcnn.parallel import accelerators, distributed, launcher_hints
from jaxcnn.parallel.distributed import Processes, StartError
from tests.parallel.launchers import free_port

ROOT = Path(__file__).parent.parent.parent


class FakeClock:
    """Replaces the `time` module: only sleeping advances the clock."""

    def __init__(self):
        self.sleeps = []

    def monotonic(self):
        return sum(self.sleeps)

    def sleep(self, seconds):
        self.sleeps.append(seconds)


def test_nobody_listens(monkeypatch):
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


def test_a_name_that_does_not_resolve():
    processes = Processes("Open MPI 5", "no-such-host.invalid:8476", 2, 1)
    with pytest.raises(
        StartError, match=r"the name no-such-host\.invalid does not resolve here"
    ) as said:
        distributed.start(processes, timeout=0.2)
    assert "JAX_COORDINATOR_ADDRESS=HOST:PORT" in str(said.value)


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartError, match=rf"process 0/2 .* cannot listen at port {port} here"):
            distributed.start(Processes("--distributed", f"localhost:{port}", 2, 0), timeout=1.0)


def test_a_long_wait_says_what_for(monkeypatch, capsys):
    monkeypatch.setattr(distributed, "PATIENCE_SECONDS", 0.05)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(StartError):
        distributed.start(Processes("--distributed", address, 2, 1), timeout=0.3)
    assert (
        f"process 1/2 (--distributed) is still waiting for the others at {address}"
        in capsys.readouterr().err
    )


CHILD = """
import os, sys
from jaxcnn.parallel.distributed import Processes, StartError, describe, parse, start
handed_over = Processes("TPU VM", "", 4, 1)
try:
    start(handed_over if sys.argv[1] == "tpu" else parse(sys.argv[1], os.environ), timeout=30.0)
except StartError as error:
    print("refused:", error)
    sys.exit(1)
import jax
from jax.sharding import PartitionSpec
print(describe())
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
rows = jax.make_array_from_process_local_data(
    jax.NamedSharding(mesh, PartitionSpec("data")), jax.numpy.arange(2.0) + 2 * jax.process_index(), (4,)
)
total = jax.shard_map(
    lambda x: jax.lax.psum(x, "data"), mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec()
)
print(float(jax.jit(total)(rows)[0]))
"""


def child(distributed):
    launched = ("SLURM_", "OMPI_", "JAX_COORDINATOR")  # where a launcher runs these tests
    own = {k: v for k, v in os.environ.items() if not k.startswith(launched)}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, distributed],
        cwd=ROOT,
        env=own | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_meet():
    address = f"localhost:{free_port()}"
    both = [child(f"{address},2,{i}") for i in range(2)]
    said = [one.communicate(timeout=60) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    for index, (out, _) in enumerate(said):
        # Gloo reports its connection on stdout at some point.
        assert f"process {index}/2, 2 local devices, 4 global\n" in out
        assert "6.0" in out.splitlines()


def test_where_jax_finds_no_tpu_slice():
    out, error = child("tpu").communicate(timeout=60)
    assert "refused: process 1/4 (TPU VM) did not start" in out, error
    assert "is jaxcnn[tpu] installed on each?" in out


def test_only_a_start_imports_jax():
    """Flags are parsed and checked before JAX is imported."""
    for module in (distributed, launcher_hints, accelerators):
        for node in ast.parse(Path(str(module.__file__)).read_text()).body:
            if isinstance(node, ast.Import):
                assert not {a.name.split(".")[0] for a in node.names} & {"jax", "tensorflow"}
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in ("jax", "tensorflow")
