"""Where arrays live: the mesh, and what is split or repeated over it."""

from jaxcnn.parallel.mesh import Placement, describe_devices, make_placement

__all__ = ["Placement", "describe_devices", "make_placement"]
