"""Where arrays live: the mesh, what is split over it, and what devices send each other."""

from jaxcnn.parallel.choosing import choose, plan_lines
from jaxcnn.parallel.crew import ALONE, Crew, OtherFailed, assemble_crew, check_same, leave
from jaxcnn.parallel.mesh import (
    Placement,
    check_batch,
    describe_devices,
    make_placement,
    put,
)
from jaxcnn.parallel.plans import Parallelism, Plan
from jaxcnn.parallel.reduction import Reduction

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
