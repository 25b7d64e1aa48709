"""Processes are detected from launchers' variables, or given by --distributed. JAX's detection is the real
one; only its connection is not."""

import os
import re
import socket
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import jax
import pytest
from jax._src import distributed as of_jax
from jax._src.clusters import cloud_tpu_cluster, cluster

from jaxcnn.parallel import launcher_hints
from jaxcnn.parallel.distributed import Processes, StartError, parse, start

# Variables that SLURM 22.05, Open MPI 4.1.4, Open MPI 5.0.11 and MPICH 5.0.2 set, if we read them.
BATCH = {
    "ENVIRONMENT": "BATCH", "SLURM_JOB_ID": "2", "SLURM_JOB_NODELIST": "node[03-04]", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_TASKS_PER_NODE": "2(x2)",
}  # fmt: skip
SRUN = BATCH | {
    "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_PROCID": "3", "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node[03-04]", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}  # fmt: skip
# A script of one task that was submitted from inside a step of two: STEP variables of the other job.
NESTED = SRUN | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}
SALLOC_SHELL = SRUN | {
    "SLURM_STEP_ID": "4294967290",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_PROCID": "0",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}  # fmt: skip
OPEN_MPI_4 = OPEN_MPI | {
    "OMPI_MCA_orte_hnp_uri": "1791623168.0;tcp://192.0.2.2,10.1.0.1:57011;tcp6://[fd00::2]:42519",
    "PMIX_NAMESPACE": "1791623169",
}
OPEN_MPI_5 = OPEN_MPI | {"PMIX_NAMESPACE": "prterun-login-node-2-1596@1", "OMPI_VERSION": "5.0.11"}
# mpirun starts its helpers with srun, one per node, and the processes inherit their variables.
OPEN_MPI_IN_SLURM = SRUN | OPEN_MPI_5 | {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
MPICH = {"PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1"}
BY_HAND = {"JAX_COORDINATOR_ADDRESS": "head:8476", "JAX_NUM_PROCESSES": "4"}
GKE = {"TPU_WORKER_ID": "2", "TPU_WORKER_HOSTNAMES": "w-0.pod,w-1.pod,w-2.pod,w-3.pod"}
SLICES = {
    "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "w-0.first",
}  # fmt: skip
TORCHRUN = {"WORLD_SIZE": "8", "RANK": "3", "LOCAL_RANK": "3", "MASTER_ADDR": "node1"}

LAUNCHERS = ("JAX_", "SLURM_", "OMPI_", "PMI", "MPI_", "TPU_", "MEGASCALE_", "KUBERNETES_", "JOB_")
VISIBLE = "jax_cuda_visible_devices"


@pytest.fixture
def found(monkeypatch):
    """What JAX is started with in an environment: (address of process 0, processes, index, visible GPUs).
    None if the process is alone. mpi4py is installed, kubernetes is not."""
    world = SimpleNamespace(Get_rank=lambda: 1, bcast=lambda _, root: f"of-rank-{root}:1")
    install(monkeypatch, "mpi4py", MPI=SimpleNamespace(COMM_WORLD=world))
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    client = SimpleNamespace(connect=lambda: None)
    monkeypatch.setattr(of_jax._jax, "get_distributed_runtime_client", lambda *_, **__: client)
    monkeypatch.setattr(of_jax._jax, "get_distributed_runtime_service", lambda *_, **__: client)

    def find(environment):
        for name in [n for n in os.environ if n.startswith(LAUNCHERS)]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        state, processes = of_jax.State(), parse("auto", os.environ)
        if processes is None:
            return None
        monkeypatch.setattr(jax.distributed, "initialize", state.initialize)
        monkeypatch.setattr(jax, "process_count", lambda: state.num_processes)
        monkeypatch.setattr(jax, "process_index", lambda: state.process_id)
        jax.config.update(VISIBLE, "all")
        start(processes)
        return (
            state.coordinator_address,
            state.num_processes,
            state.process_id,
            jax.config.read(VISIBLE),
        )

    yield find
    for name in (VISIBLE, "jax_rocm_visible_devices"):
        jax.config.update(name, "all")


def install(monkeypatch, name, **attributes):
    module = ModuleType(name)
    vars(module).update(attributes, __spec__=ModuleSpec(name, None))
    monkeypatch.setitem(sys.modules, name, module)


GPUS = {"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
ONE_A_NODE = {"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_LOCALID": "0"}
FOUND = [
    ("by hand", BY_HAND | {"JAX_PROCESS_ID": "3"}, ("head:8476", 4, 3, "all")),
    ("an indexed Job", BY_HAND | {"JOB_COMPLETION_INDEX": "1"}, ("head:8476", 4, 1, "all")),
    ("by hand in SLURM", SRUN | BY_HAND | {"JAX_PROCESS_ID": "1"}, ("head:8476", 4, 1, "all")),
    ("srun", SRUN, ("node03:61804", 4, 3, "all")),
    ("srun, second step", SRUN | {"SLURM_STEP_ID": "1"}, ("node03:61946", 4, 3, "all")),
    ("srun, a port", SRUN | {"JAX_COORDINATOR_PORT": "9000"}, ("node03:9000", 4, 3, "all")),
    ("srun, a network", SRUN | {"JAX_COORDINATOR_ADDRESS": "ib03:9000"}, ("ib03:9000", 4, 3, "all")),
    ("srun, GPUs", SRUN | GPUS, ("node03:61804", 4, 3, "2,3")),
    ("srun, own GPUs", SRUN | GPUS | {"JAX_LOCAL_DEVICE_IDS": "1"}, ("node03:61804", 4, 3, "1")),
    ("srun, one a node", SRUN | GPUS | ONE_A_NODE, ("node03:61804", 4, 3, "all")),
    ("srun with PMI", SRUN | {"PMI_SIZE": "4", "PMI_RANK": "3"}, ("node03:61804", 4, 3, "all")),
    ("mpirun 4", OPEN_MPI_4 | GPUS, ("192.0.2.2:62488", 2, 1, "2,3")),
    ("mpirun 5", OPEN_MPI_5 | GPUS, ("of-rank-0:1", 2, 1, "2,3")),
    ("mpirun 5 in SLURM", OPEN_MPI_IN_SLURM, ("of-rank-0:1", 2, 1, "all")),
    ("MPICH", MPICH | GPUS, ("of-rank-0:1", 2, 1, "2,3")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "expected"), [row[1:] for row in FOUND], ids=[row[0] for row in FOUND]
)
def test_jax_starts_with_what_the_launcher_says(environment, expected, found):
    assert found(environment) == expected


ALONE = {
    "a laptop": {},
    "by hand": BY_HAND | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
    "srun of one task": SRUN | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"},
    "a batch script outside srun": BATCH,
    "a batch script submitted in a step": NESTED,
    "a shell under salloc": SALLOC_SHELL,
    "mpirun 5 of one process in SLURM": OPEN_MPI_IN_SLURM | {"OMPI_COMM_WORLD_SIZE": "1"},
    "the first pod of a Job": {"JOB_COMPLETION_INDEX": "0"},
    "torchrun of one process": {"WORLD_SIZE": "1", "RANK": "0"},
    "a TPU machine of GKE": {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
}


@pytest.mark.parametrize("environment", ALONE.values(), ids=ALONE)
def test_one_process_is_alone(environment, found):
    assert found(environment) is None


@pytest.fixture
def tpu(monkeypatch, tmp_path):
    """The environment of a TPU machine, and the attributes in its metadata server."""
    attributes = {}
    (tmp_path / "accel0").touch()
    (tmp_path / "libtpu.so").touch()
    for module in (cluster, cloud_tpu_cluster):
        monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)
    answer = lambda key: (attributes.get(key, ""), 200 if key in attributes else 404)  # noqa: E731
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", answer)
    monkeypatch.setattr(socket, "gethostbyname", lambda _: "10.0.0.1")
    return {"TPU_LIBRARY_PATH": str(tmp_path / "libtpu.so")}, attributes


def test_jax_finds_the_pods_of_a_tpu_slice(found, tpu):
    assert found(GKE | tpu[0]) == ("w-0.pod:8482", 4, 2, "all")
    assert found(GKE | tpu[0] | SLICES) == ("w-0.first:8482", 8, 6, "all")


@pytest.mark.filterwarnings(
    "ignore:'maxsplit' is passed:DeprecationWarning"
)  # of jax on Python 3.13
def test_jax_finds_the_machines_of_a_tpu_slice(found, tpu):
    environment, attributes = tpu
    with pytest.raises(
        StartError, match=r"TPU VM.* did not start.*for a single one: --distributed=off"
    ):
        found(environment)  # the metadata server knows of none, or fails
    assert found(environment | {"TPU_SKIP_MDS_QUERY": "1"}) is None
    assert found(environment | {"JAX_PLATFORMS": "cpu"}) is None
    attributes["agent-worker-number"] = "3"
    attributes["worker-network-endpoints"] = ",".join(
        f"unknown:unknown:10.0.0.{i}" for i in range(4)
    )
    assert found(environment) == ("10.0.0.0:8482", 4, 3, "all")
    attributes["tpu-env"] = (
        "ZONE: 'us-west4-a'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
    )
    assert found(environment) == ("10.0.0.0:8482", 8, 7, "all")


def test_jax_finds_the_pods_of_an_indexed_job_with_kubernetes(found, monkeypatch):
    install(monkeypatch, "kubernetes")
    assert parse("auto", {"JOB_COMPLETION_INDEX": "0"}) == Processes("Kubernetes")
    with pytest.raises(StartError, match=r"Kubernetes.* did not start.*HOST:PORT,N,I"):
        found({"JOB_COMPLETION_INDEX": "2"})


def test_a_bad_variable_is_named():
    with pytest.raises(ValueError, match="variable SLURM_PROCID must be a whole number, got 'one'"):
        parse("auto", SRUN | {"SLURM_PROCID": "one"})
    with pytest.raises(ValueError, match=r"JAX_COORDINATOR_ADDRESS: process 4 of 4"):
        parse("auto", BY_HAND | {"JAX_PROCESS_ID": "4"})
    with pytest.raises(
        ValueError, match=r"JAX_COORDINATOR_ADDRESS: an address is HOST:PORT.*got 'head'"
    ):
        parse("auto", BY_HAND | {"JAX_COORDINATOR_ADDRESS": "head", "JAX_PROCESS_ID": "0"})


def test_tasks_on_each_node_of_slurms_list():
    tasks = [str(launcher_hints.tasks_on_node("2(x3),1,4(x2)", node)) for node in range(7)]
    assert " ".join(tasks) == "2 2 2 1 4 4 1"


WOULD_BE_ALONE = [
    (OPEN_MPI_5, "HOST:PORT,2,$OMPI_COMM_WORLD_RANK", "pip install mpi4py"),
    (MPICH, "HOST:PORT,2,$PMI_RANK", "PMI_SIZE=2"),
    (SRUN | MPICH | {"PMI_SIZE": "8"}, "HOST:PORT,8,$PMI_RANK", "PMI_SIZE=8"),
    (TORCHRUN, "HOST:PORT,8,$RANK", "the address of process 0 is unknown"),
    ({"JAX_NUM_PROCESSES": "4"}, "HOST:PORT,4,$JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS"),
    (GKE, "HOST:PORT,4,$TPU_WORKER_ID", "JAX can use no TPU here"),
    ({"JOB_COMPLETION_INDEX": "2"}, "HOST:PORT,N,$JOB_COMPLETION_INDEX", "package kubernetes"),
]  # fmt: skip


@pytest.mark.parametrize(("environment", "advice", "why"), WOULD_BE_ALONE)
def test_processes_that_would_each_train_alone_are_an_error(environment, advice, why, monkeypatch):
    for name in ("mpi4py", "kubernetes"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(StartError, match=re.escape(why)) as caught:
        parse("auto", environment)
    for text in (advice, "--distributed=off", "--workdir"):
        assert text in str(caught.value)
