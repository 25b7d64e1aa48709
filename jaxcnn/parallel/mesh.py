"""The device mesh and its shardings. Axis `data` splits batches; axis `model` is kept for split nets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mesh with the two shardings that data parallelism needs."""

    mesh: Mesh

    @property
    def batch(self) -> NamedSharding:
        """Split over `data` along the first axis."""
        return NamedSharding(self.mesh, PartitionSpec("data"))

    @property
    def replicated(self) -> NamedSharding:
        """A whole copy on every device: parameters, optimiser state, scalars."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def data_size(self) -> int:
        return self.mesh.shape["data"]

    def put_batch(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """This process's rows of a global batch as global arrays, split over `data`."""
        return {k: jax.make_array_from_process_local_data(self.batch, v) for k, v in batch.items()}

    def put_replicated(self, tree: Any) -> Any:
        return jax.device_put(tree, self.replicated)


def make_placement(*, data: int = 0, model: int = 1) -> Placement:
    """A mesh of `data` x `model` devices, axes Auto: XLA places the collectives.

    Args:
        data: devices that split each batch; 0 takes all of them.
        model: devices that split a net.

    Raises:
        ValueError: sizes that do not use the devices exactly.
    """
    devices = jax.devices()
    if model != 1:
        raise ValueError(f"mesh.model must be 1, got {model}: nets are not split over devices yet")
    if data < 0 or (data or len(devices)) > len(devices):
        raise ValueError(
            f"mesh.data must be 0 (all) to {len(devices)}, the devices there are; got {data}"
        )
    chosen = np.asarray(devices[: data or len(devices)]).reshape(-1, model)
    return Placement(Mesh(chosen, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto)))


def check_batch(batch_size: int, accumulate: int, placement: Placement) -> None:
    """A global batch must split evenly over devices and accumulation slices.

    Raises:
        ValueError: naming the nearest batch size that does.
    """
    unit = placement.data_size * accumulate
    if batch_size % unit:
        nearest = max(1, round(batch_size / unit)) * unit
        raise ValueError(
            f"batch_size {batch_size} does not split over {placement.data_size} devices x {accumulate} "
            f"accumulation slices; the nearest that does: --config.batch_size={nearest}"
        )


def describe_devices() -> str:
    """One line: `8 x NVIDIA H100 (gpu)`; with the process where there are several."""
    devices = jax.devices()
    line = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
    if jax.process_count() > 1:
        process = f"process {jax.process_index()}/{jax.process_count()}"
        line = f"{process}, {jax.local_device_count()} local, {line}"
    return line
