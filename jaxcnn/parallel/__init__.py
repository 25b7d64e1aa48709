"""Where arrays live: the mesh, what is split over it, and what devices send each other."""

from jaxcnn.parallel.auto_plan import choose, plan_lines
from jaxcnn.parallel.grad_reduce import Reduction
from jaxcnn.parallel.mesh import (
    Placement,
    check_batch,
    describe_devices,
    make_placement,
    put,
)
from jaxcnn.parallel.parallelism import Parallelism, Plan
from jaxcnn.parallel.process_group import ALONE, Crew, OtherFailed, assemble_crew, check_same, leave

__all__ = [
    "ALONE",
    "Crew",
    "OtherFailed",
    "Parallelism",
    "Placement",
    "Plan",
    "Reduction",
    "assemble_crew",
    "check_batch",
    "check_same",
    "choose",
    "describe_devices",
    "leave",
    "make_placement",
    "plan_lines",
    "put",
]
