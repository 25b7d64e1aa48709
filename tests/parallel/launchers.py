"""Environments that launchers give their processes, and the values to detect in each."""

import socket

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
SLICES = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}
TORCHRUN = {"WORLD_SIZE": "8", "RANK": "3", "LOCAL_RANK": "3", "MASTER_ADDR": "node1"}

FOUND = [
    ("a laptop", {}, None),
    ("by hand", BY_HAND | {"JAX_PROCESS_ID": "3"}, ("JAX_COORDINATOR_ADDRESS", "head:8476", 4, 3)),
    (
        "an indexed Job of Kubernetes",
        BY_HAND | {"JOB_COMPLETION_INDEX": "1"},
        ("JAX_COORDINATOR_ADDRESS", "head:8476", 4, 1),
    ),
    ("by hand, before SLURM", SRUN | BY_HAND | {"JAX_PROCESS_ID": "0"},
     ("JAX_COORDINATOR_ADDRESS", "head:8476", 4, 0)),
    ("by hand, one", BY_HAND | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
    ("srun", SRUN, ("SLURM", "node03:61442", 4, 3)),
    ("srun, the job's second step", SRUN | {"SLURM_STEP_ID": "1"}, ("SLURM", "node03:61699", 4, 3)),
    ("srun, a large job number", SRUN | {"SLURM_JOB_ID": "12345678"}, ("SLURM", "node03:61774", 4, 3)),
    ("srun, another port", SRUN | {"JAX_COORDINATOR_PORT": "9000"}, ("SLURM", "node03:9000", 4, 3)),
    ("srun, another network", SRUN | {"JAX_COORDINATOR_ADDRESS": "node03-ib:9000"},
     ("SLURM", "node03-ib:9000", 4, 3)),
    ("srun of one task", SRUN | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, None),
    ("a batch script outside srun", BATCH, None),
    ("a batch script submitted in a step", NESTED, None),
    ("a shell under salloc", SALLOC_SHELL, None),
    ("mpirun 4", OPEN_MPI_4, ("Open MPI 4", "192.0.2.2:64672", 2, 1)),
    ("mpirun 4, IPv6", OPEN_MPI_4 | {"OMPI_MCA_orte_hnp_uri": "1791623168.0;tcp6://[fd00::2,fd00::3]:42519"},
     ("Open MPI 4", "[fd00::2]:64672", 2, 1)),
    ("mpirun 5", OPEN_MPI_5, ("Open MPI 5", "login-node-2:63037", 2, 1)),
    ("mpirun 5 under SLURM", OPEN_MPI_IN_SLURM, ("Open MPI 5", "login-node-2:63037", 2, 1)),
    ("mpirun 5, one process under SLURM", OPEN_MPI_IN_SLURM | {"OMPI_COMM_WORLD_SIZE": "1",
     "OMPI_COMM_WORLD_RANK": "0"}, None),
    ("srun with PMI", SRUN | {"PMI_SIZE": "4", "PMI_RANK": "3"}, ("SLURM", "node03:61442", 4, 3)),
]  # fmt: skip


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
