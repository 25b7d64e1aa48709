"""Processes are detected from launchers' variables, or given by --distributed."""

import re

import pytest

from jaxcnn.parallel import launcher_hints
from jaxcnn.parallel.distributed import Processes, StartError, parse
from tests.parallel.launchers import BY_HAND, FOUND, GKE, MPICH, OPEN_MPI_4, SRUN, TORCHRUN


@pytest.mark.parametrize(
    ("environment", "expected"), [row[1:] for row in FOUND], ids=[r[0] for r in FOUND]
)
def test_auto_detects_the_process_or_that_it_is_alone(environment, expected):
    assert parse("auto", environment) == (None if expected is None else Processes(*expected))


@pytest.mark.parametrize("environment", [{}, SRUN, OPEN_MPI_4, BY_HAND | {"JAX_PROCESS_ID": "3"}])
def test_off_is_alone(environment):
    assert parse("off", environment) is None


def test_explicit_values_take_precedence_over_launchers():
    assert parse("node1:8476,4,3", SRUN) == Processes("--distributed", "node1:8476", 4, 3)
    assert parse("[fd00::2]:8476,1,0", {}) == Processes("--distributed", "[fd00::2]:8476", 1, 0)


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


def test_a_bad_variable_is_named():
    with pytest.raises(ValueError, match="variable SLURM_PROCID must be a whole number, got 'one'"):
        parse("auto", SRUN | {"SLURM_PROCID": "one"})
    with pytest.raises(ValueError, match=r"JAX_COORDINATOR_ADDRESS: process 4 of 4"):
        parse("auto", BY_HAND | {"JAX_PROCESS_ID": "4"})
    with pytest.raises(
        ValueError, match=r"JAX_COORDINATOR_ADDRESS: an address is HOST:PORT.*got 'head'"
    ):
        parse("auto", BY_HAND | {"JAX_COORDINATOR_ADDRESS": "head", "JAX_PROCESS_ID": "0"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("gpu[03-05,9],x1", "gpu03"),
        ("gpu[9,03-05]", "gpu9"),
        ("rack[2-3]n[07-08]-ib,x1", "rack2n07-ib"),
        ("a-b.c,d[1-2]", "a-b.c"),
    ],
)
def test_first_host_of_slurms_list(nodes, first):
    assert launcher_hints.first_host(nodes) == first


def test_tasks_on_each_node_of_slurms_list():
    tasks = [str(launcher_hints.tasks_on_node("2(x3),1,4(x2)", node)) for node in range(7)]
    assert " ".join(tasks) == "2 2 2 1 4 4 1"


ALONE = [
    ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE=4", "HOST:PORT,4,$OMPI_COMM_WORLD_RANK"),
    (MPICH, "PMI_SIZE=2", "HOST:PORT,2,$PMI_RANK"),
    (SRUN | MPICH | {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "PMI_SIZE": "4"}, "PMI_SIZE=4",
     "HOST:PORT,4,$PMI_RANK"),
    (TORCHRUN, "WORLD_SIZE=8", "HOST:PORT,8,$RANK"),
    ({"JAX_NUM_PROCESSES": "4"}, "JAX_NUM_PROCESSES=4", "HOST:PORT,4,$JAX_PROCESS_ID"),
    ({k: v for k, v in SRUN.items() if k != "SLURM_STEP_NODELIST"}, "SLURM_STEP_NUM_TASKS=4",
     "HOST:PORT,4,$SLURM_PROCID"),
    (GKE, "JAX can use no TPU here", "HOST:PORT,4,$TPU_WORKER_ID"),
    ({"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX=2", "HOST:PORT,N,$JOB_COMPLETION_INDEX"),
]  # fmt: skip


@pytest.mark.parametrize(("environment", "sign", "advice"), ALONE)
def test_processes_that_would_each_train_alone_are_an_error(environment, sign, advice):
    with pytest.raises(StartError, match=re.escape(sign)) as caught:
        parse("auto", environment)
    assert advice in str(caught.value)
    assert "--distributed=off" in str(caught.value)
    assert "--workdir" in str(caught.value)


@pytest.mark.parametrize(
    "environment", [{"JOB_COMPLETION_INDEX": "0"}, {"WORLD_SIZE": "1", "RANK": "0"}]
)
def test_one_process_of_a_launcher_is_alone(environment):
    assert parse("auto", environment) is None
