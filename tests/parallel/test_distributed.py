"""The value of --distributed, and what is reported before JAX would crash."""

import ast
import re
import socket
from pathlib import Path

import pytest

from jaxcnn.parallel import accelerators, distributed, launcher_hints
from jaxcnn.parallel.distributed import Processes, StartError, parse, start


@pytest.mark.parametrize(
    "environment", [{}, {"JAX_NUM_PROCESSES": "4"}, {"OMPI_COMM_WORLD_SIZE": "4"}]
)
def test_given_values_take_precedence_over_launchers(environment):
    assert parse("off", environment) is None
    given = Processes("--distributed", 4, 3, "[fd00::2]:8476", "deactivate")
    assert parse("[fd00::2]:8476,4,3", environment) == given


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("yes", "Got 'yes'"),
        ("", "Got ''"),
        ("node1:8476", "Got 'node1:8476'"),
        ("node1:8476,4", "Got 'node1:8476,4'"),
        ("node1:8476,4,-1", "Got 'node1:8476,4,-1'"),
        ("node1:8476,4,4", "process 4 of 4; N is 1 or more, I from 0 to N - 1"),
        ("node1:8476,0,0", "process 0 of 0"),
        ("node1,4,0", "an address is HOST:PORT, the port from 1 to 65535; got 'node1'"),
        ("node1:0,4,0", "got 'node1:0'"),
        ("node1:70000,4,0", "got 'node1:70000'"),
        ("fd00::2:8476,4,0", "got 'fd00::2:8476'"),
    ],
)
def test_the_error_for_a_bad_value_says_what_to_type(text, why):
    with pytest.raises(ValueError, match=re.escape(why)) as caught:
        parse(text, {})
    assert "--distributed=node1:8476,4,0" in str(caught.value)


def test_a_port_in_use_is_reported():
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        for processes in (
            Processes("--distributed", 2, 0, f"localhost:{port}", "deactivate"),
            Processes("SLURM", 2, 0, detection="slurm", port=port),
        ):
            with pytest.raises(
                StartError, match=rf"process 0/2 .* cannot listen at port {port} here"
            ):
                start(processes, timeout=1.0)


def test_only_a_start_imports_jax():
    """Flags are parsed and checked before JAX is imported."""
    for module in (distributed, launcher_hints, accelerators):
        for node in ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                assert not {a.name.split(".")[0] for a in node.names} & {"jax", "tensorflow"}
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in ("jax", "tensorflow")
