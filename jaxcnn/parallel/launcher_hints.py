"""Finds what started this process with others, and what JAX needs to be told about it. Starts nothing.

JAX finds process 0 itself: in SLURM, Open MPI, Kubernetes and on TPUs, and with mpi4py for every MPI. This
module says which of these to use, and adds what JAX (0.10 to 0.12) leaves out:

* Several processes that JAX would leave alone, each training in the same workdir, are an error.
* JAX gives a process one GPU under SLURM and MPI (jax-ml/jax#16788): `local_device_ids`.
* JAX gives all steps of a SLURM job one port, and crashes if a port is in use: `port`.
* JAX takes a shell under salloc, and mpirun 5's helpers under SLURM, for tasks of srun: `step_tasks`.
* JAX does not read JAX_NUM_PROCESSES and JAX_PROCESS_ID: `_by_hand`.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from importlib.util import find_spec
from typing import NamedTuple

from jaxcnn.parallel.accelerators import Environment, has_tpu, number, task_gpus


class StartError(RuntimeError):
    """The processes could not connect; the message says what to check."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """What a process of several tells JAX at its start. JAX finds what is None.

    Attributes:
        found_by: source of these values, for messages: SLURM, Open MPI, --distributed.
        count: total number of processes.
        index: index of this process, from 0.
        coordinator: HOST:PORT where process 0 listens.
        detection: JAX's `cluster_detection_method`; None for TPUs and Kubernetes.
        local_device_ids: the visible GPUs that this process uses; empty for all.
        port: port of process 0 if JAX finds its host.
    """

    found_by: str
    count: int | None = None
    index: int | None = None
    coordinator: str | None = None
    detection: str | None = None
    local_device_ids: tuple[int, ...] | None = None
    port: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None and not 0 <= (self.index or 0) < self.count:
            raise ValueError(
                f"{self.found_by}: process {self.index} of {self.count}; N is 1 or more, I from 0 to N - 1"
            )
        try:
            if self.coordinator is not None:
                split_address(self.coordinator)
        except ValueError as error:
            raise ValueError(f"{self.found_by}: {error}") from None


class Launcher(NamedTuple):
    """A launcher, and its variables: processes and index, in the run and on this machine."""

    name: str
    count: str
    index: str
    local_count: str = ""
    local_index: str = ""


# The innermost comes first: mpirun starts its helpers with srun. MPICH and Intel MPI set PMI_SIZE.
LAUNCHERS = (
    Launcher(
        "Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
    ),
    Launcher(
        "SLURM", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_LOCALID"
    ),
    Launcher("MPI", "PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS", "MPI_LOCALRANKID"),
    Launcher("torchrun", "WORLD_SIZE", "RANK"),
)  # fmt: skip


def detect(environment: Environment) -> Processes | None:
    """Detects from `environment` how to start; None if this process was started alone.

    Raises:
        ValueError: a variable has an invalid value.
        StartError: this process was started with others, but JAX cannot find them.
    """
    if "JAX_NUM_PROCESSES" in environment:
        return _by_hand(environment)
    for launcher in LAUNCHERS:
        slurm = launcher.name == "SLURM"
        count = step_tasks(environment) if slurm else number(environment, launcher.count)
        if count > 1:
            return _launched(environment, launcher, count)
    return _pod(environment)


def _by_hand(environment: Environment) -> Processes | None:
    # Kubernetes sets JOB_COMPLETION_INDEX in the pods of an indexed Job.
    index = "JAX_PROCESS_ID" if "JAX_PROCESS_ID" in environment else "JOB_COMPLETION_INDEX"
    count, name = number(environment, "JAX_NUM_PROCESSES"), "JAX_COORDINATOR_ADDRESS"
    if count == 1:
        return None
    if not {name, index} <= set(environment):
        missing = f"{name} or JAX_PROCESS_ID is not set"
        raise _alone(environment, "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", count, missing)
    found = number(environment, index)
    return Processes(name, count, found, environment[name], "deactivate")


def _launched(environment: Environment, launcher: Launcher, count: int) -> Processes:
    name, job = launcher.name, environment.get("PMIX_NAMESPACE", "")
    if name == "SLURM":
        detection = "slurm"
        # Steps of one job may run concurrently on one node, so each needs a different port.
        job = f"{environment.get('SLURM_JOB_ID')}.{environment.get('SLURM_STEP_ID')}"
    elif "OMPI_MCA_orte_hnp_uri" in environment:  # Open MPI 4
        detection = "ompi"
    elif name != "torchrun" and find_spec("mpi4py"):
        detection = "mpi4py"
    else:
        missing = "the address of process 0 is unknown"
        if name != "torchrun":
            missing = (
                "JAX finds the others through mpi4py, which is not installed (pip install mpi4py)"
            )
        raise _alone(environment, launcher.count, launcher.index, count, missing)
    node = number(environment, "SLURM_NODEID", 0) if name == "SLURM" else 0
    tasks = tasks_on_node(environment.get(launcher.local_count, ""), node)
    return Processes(
        name,
        count,
        number(environment, launcher.index, -1),
        environment.get("JAX_COORDINATOR_ADDRESS"),
        detection,
        task_gpus(environment, number(environment, launcher.local_index, 0), tasks),
        # Above Linux's ephemeral port range. MPICH does not say its job; JAX then takes any port.
        number(environment, "JAX_COORDINATOR_PORT", 61440 + zlib.crc32(job.encode()) % 4096)
        if job
        else None,
    )


def _pod(environment: Environment) -> Processes | None:
    """A machine of a TPU slice, or a pod of an indexed Job: JAX finds the others."""
    for listed in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if hosts := [host for host in environment.get(listed, "").split(",") if host]:
            count = len(hosts) * number(environment, "MEGASCALE_NUM_SLICES")
            if count == 1:
                return None
            if has_tpu(environment):
                return Processes("GKE TPU")
            missing = "JAX can use no TPU here (is jaxcnn[tpu] installed and JAX_PLATFORMS unset?)"
            raise _alone(environment, listed, "TPU_WORKER_ID", count, missing)
    # JAX sets this variable when it is imported and finds no TPU.
    if has_tpu(environment) and "TPU_SKIP_MDS_QUERY" not in environment:
        return Processes("TPU VM")
    pod = "JOB_COMPLETION_INDEX"
    if pod in environment and find_spec("kubernetes"):
        return Processes("Kubernetes")
    if (index := number(environment, pod, 0)) > 0:
        missing = "JAX finds the others through the package kubernetes, which is not installed"
        raise _alone(environment, pod, pod, index + 1, missing)
    return None


def _alone(environment: Environment, size: str, index: str, count: int, missing: str) -> StartError:
    """The error of a process that was started with others and would train alone."""
    total = "N" if size == index else count
    return StartError(
        f"{size}={environment[size]} means that at least {count} processes were started together, but "
        f"{missing}. Each would train alone and write to the same workdir. Pass each its index: "
        f"sh -c 'jaxcnn train ... --distributed=HOST:PORT,{total},${index}'. For independent "
        "runs: --distributed=off, with a different --workdir for each"
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
    the MPI's own variable counts the processes.
    """
    tasks = number(environment, "SLURM_STEP_NUM_TASKS")
    counts = ("SLURM_NTASKS", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
    agree = all(number(environment, name, tasks) == tasks for name in counts)
    return tasks if "SLURM_STEP_ID" in environment and agree else 1
