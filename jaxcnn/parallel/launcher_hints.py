"""Detects the process count and index from launchers' environment variables. Starts nothing.

JAX's own detection only finds the coordinator of a TPU slice. For the rest it does not suffice (jax 0.10 to
0.12): under SLURM and Open MPI it gives a process one GPU (jax-ml/jax#16788), it takes a shell under salloc
for one task of many and gives all steps of a job one port, and it does not know Open MPI 5 or
JAX_NUM_PROCESSES.
"""

from __future__ import annotations

import dataclasses
import re

from jaxcnn.parallel.accelerators import (
    Environment,
    has_tpu,
    number,
    over_slices,
    task_gpus,
    tpu_hosts,
    tpu_machines,
)


@dataclasses.dataclass(frozen=True)
class Processes:
    """The process count and index of a distributed run, and how to reach its coordinator.

    Attributes:
        found_by: source of these values, for messages: SLURM, Open MPI 5, --distributed.
        coordinator: HOST:PORT where process 0 listens; '' on TPUs, where JAX finds it.
        count: total number of processes.
        index: index of this process, from 0.
        local_device_ids: the visible GPUs that this process uses; None for all.
    """

    found_by: str
    coordinator: str
    count: int
    index: int
    local_device_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"{self.found_by}: process {self.index} of {self.count}; N is 1 or more, I from 0 to N - 1"
            )
        try:
            if self.coordinator:
                split_address(self.coordinator)
        except ValueError as error:
            raise ValueError(f"{self.found_by}: {error}") from None


def detect(environment: Environment) -> Processes | None:
    """Detects the cluster from `environment`; it may have a single process. None if there is no cluster.

    Raises:
        ValueError: a variable has an invalid value.
    """
    found = (detector(environment) for detector in DETECTORS)
    return next((processes for processes in found if processes is not None), None)


def launcher_hints(environment: Environment) -> tuple[str, str, int] | None:
    """Finds the number of processes that were started together, even if the coordinator is unknown.

    Returns:
        (variable with the process count, variable with the process index, count), or None. The innermost
        launcher takes precedence, since mpirun starts its helpers with srun.
    """
    for size, index in SIZES:
        if size in environment:
            return size, index, number(environment, size)
    if step_tasks(environment) > 1:
        return "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", step_tasks(environment)
    for size in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if environment.get(size):
            return size, "TPU_WORKER_ID", len(tpu_hosts(environment))
    if (pod := number(environment, "JOB_COMPLETION_INDEX", default=0)) > 0:
        return "JOB_COMPLETION_INDEX", "JOB_COMPLETION_INDEX", pod + 1
    return None


# (count, index) variables: JAX; Open MPI; MPICH, Intel MPI and srun --mpi=pmi2; torchrun.
SIZES = (
    ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("WORLD_SIZE", "RANK"),
)


def split_address(text: str) -> tuple[str, int]:
    """Splits `node1:8476` or `[fd00::2]:8476` into host and port.

    Raises:
        ValueError: the text has another form.
    """
    parts = re.fullmatch(r"(?:\[([^\[\]\s]+)\]|([^:\[\]\s,]+)):([0-9]{1,5})", text)
    if parts is None or not 0 < int(parts[3]) < 65536:
        raise ValueError(f"an address is HOST:PORT, the port from 1 to 65535; got {text!r}")
    return parts[1] or parts[2], int(parts[3])


def first_host(nodes: str) -> str:
    """Returns the first host of SLURM's compressed list: gpu03 for `gpu[03-05,9],x1`."""
    head = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", head.group() if head else "")


def tasks_on_node(compressed: str, node: int) -> int:
    """Returns the task count of node `node` from SLURM's `2(x3),1`, meaning 2, 2, 2, 1; 1 past the end."""
    counts: list[int] = []
    for tasks, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", compressed):
        counts += [int(tasks)] * int(times or 1)
    return counts[node] if node < len(counts) else 1


def step_tasks(environment: Environment) -> int:
    """Returns the number of tasks in this process's srun step; 1 outside a step.

    A batch script is one process, although it has its job's SLURM_NTASKS and a SLURM_PROCID: only srun sets
    the STEP variables. A script submitted from inside a step inherits them and a shell under salloc has
    different ones, but there they disagree with SLURM_NTASKS. Under mpirun they count its helpers, while
    PMI_SIZE counts the processes.
    """
    tasks = number(environment, "SLURM_STEP_NUM_TASKS")
    agree = (number(environment, v, tasks) == tasks for v in ("SLURM_NTASKS", "PMI_SIZE"))
    return tasks if "SLURM_STEP_ID" in environment and all(agree) else 1


def _by_hand(environment: Environment) -> Processes | None:
    # Kubernetes sets JOB_COMPLETION_INDEX in the pods of an indexed Job.
    index = "JAX_PROCESS_ID" if "JAX_PROCESS_ID" in environment else "JOB_COMPLETION_INDEX"
    name = "JAX_COORDINATOR_ADDRESS"
    if not {name, "JAX_NUM_PROCESSES", index} <= set(environment):
        return None
    count = number(environment, "JAX_NUM_PROCESSES")
    return Processes(name, environment[name], count, number(environment, index, 0))


def _open_mpi(environment: Environment) -> Processes | None:
    # mpirun 4's URI: 1531576320.0;tcp://10.96.0.1,10.148.0.1:34911;tcp6://[fe80::b9b,2620:10d::2]:43370.
    uri = environment.get("OMPI_MCA_orte_hnp_uri", "")
    # mpirun 5's namespace: prterun-HOST-PID@JOB.
    namespace = environment.get("PMIX_NAMESPACE", "")
    if mpirun := re.match(r"(\d+)\.\d+;(?:tcp://([^,:;]+)|tcp6://\[([^,\]]+))", uri):
        version, host, job = 4, mpirun[2] or f"[{mpirun[3]}]", int(mpirun[1]) // 4096
    elif mpirun := re.fullmatch(r"\w+-(.+)-(\d+)@(\d+)", namespace):
        version, host, job = 5, mpirun[1], int(mpirun[2]) + int(mpirun[3])
    else:
        return None
    if not {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"} <= set(environment):
        return None
    tasks = number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE")
    return Processes(
        f"Open MPI {version}",
        _address(environment, host, job),
        number(environment, "OMPI_COMM_WORLD_SIZE"),
        number(environment, "OMPI_COMM_WORLD_RANK"),
        task_gpus(environment, number(environment, "OMPI_COMM_WORLD_LOCAL_RANK", 0), tasks),
    )


def _slurm(environment: Environment) -> Processes | None:
    needed = {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID"}
    count = step_tasks(environment)
    if count == 1 or not needed <= set(environment):
        return None
    # Steps of one job may run concurrently on one node, so each needs a different port.
    job = number(environment, "SLURM_JOB_ID") + 257 * number(environment, "SLURM_STEP_ID")
    node = number(environment, "SLURM_NODEID", 0)
    tasks = tasks_on_node(environment.get("SLURM_STEP_TASKS_PER_NODE", ""), node)
    return Processes(
        "SLURM",
        _address(environment, first_host(environment["SLURM_STEP_NODELIST"]), job),
        count,
        number(environment, "SLURM_PROCID"),
        task_gpus(environment, number(environment, "SLURM_LOCALID", 0), tasks),
    )


def _tpu(environment: Environment) -> Processes | None:
    if not has_tpu(environment):
        return None
    if hosts := tpu_hosts(environment):
        index = number(environment, "TPU_WORKER_ID", default=0)
        return Processes("GKE TPU", "", *over_slices(environment, len(hosts), index))
    found = tpu_machines(environment)
    return Processes("TPU VM", "", *found) if found else None


def _address(environment: Environment, host: str, job: int) -> str:
    """HOST:PORT of process 0. The port is derived from the job, above Linux's ephemeral port range."""
    port = number(environment, "JAX_COORDINATOR_PORT", 61440 + job % 4096)
    return environment.get("JAX_COORDINATOR_ADDRESS", f"{host}:{port}")


# In order of precedence: explicit settings, then the innermost launcher.
DETECTORS = (_by_hand, _open_mpi, _slurm, _tpu)
