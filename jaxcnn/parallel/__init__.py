"""Device mesh, sharding of parameters and updates, collectives, and process coordination."""

from jaxcnn.parallel.auto_plan import choose_plan, plan_lines
from jaxcnn.parallel.grad_reduce import GradReduce
from jaxcnn.parallel.mesh import (
    Placement,
    check_batch,
    describe_devices,
    make_placement,
    put,
)
from jaxcnn.parallel.parallelism import Parallelism, Plan
from jaxcnn.parallel.process_group import (
    SINGLE_PROCESS,
    PeerFailed,
    PeersLost,
    ProcessGroup,
    check_same,
    join_process_group,
    leave_process_group,
)

__all__ = [
    "SINGLE_PROCESS",
    "GradReduce",
    "Parallelism",
    "PeerFailed",
    "PeersLost",
    "Placement",
    "Plan",
    "ProcessGroup",
    "check_batch",
    "check_same",
    "choose_plan",
    "describe_devices",
    "join_process_group",
    "leave_process_group",
    "make_placement",
    "plan_lines",
    "put",
]
