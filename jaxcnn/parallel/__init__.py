"""Where arrays live: the mesh, what is split over it, and what devices send each other."""

from jaxcnn.parallel.choosing import choose, plan_lines
from jaxcnn.parallel.mesh import (
    Placement,
    check_batch,
    describe_devices,
    local_placement,
    make_placement,
    put,
)
from jaxcnn.parallel.plans import Parallelism, Plan
from jaxcnn.parallel.reduction import Reduction

__all__ = [
    "Parallelism",
    "Placement",
    "Plan",
    "Reduction",
    "check_batch",
    "choose",
    "describe_devices",
    "local_placement",
    "make_placement",
    "plan_lines",
    "put",
]
