"""The device mesh and its shardings. Axis `data` splits batches; axis `model` may also split layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxcnn.parallel import xla_options

AXES = ("data", "model")


@dataclasses.dataclass(frozen=True)
class Placement:
    """A device mesh, with the shardings of batches and replicated arrays."""

    mesh: Mesh

    @property
    def batch(self) -> NamedSharding:
        """The sharding of a batch: its first axis is split over all devices."""
        return self.sharding(PartitionSpec(AXES))

    @property
    def replicated(self) -> NamedSharding:
        """A full copy on every device: scalars, and parameters that the plan does not split."""
        return self.sharding(PartitionSpec())

    def sharding(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(self.mesh, spec)

    @property
    def platform(self) -> str:
        """'cpu', 'gpu' or 'tpu'."""
        return self.mesh.devices.flat[0].platform

    @property
    def compiler_options(self) -> dict[str, str]:
        """XLA options for every program that is compiled for these devices."""
        return xla_options.compiler_options(self._a_device)

    @property
    def option_lines(self) -> list[tuple[str, str]]:
        """(name, text) rows for the console on XLA options; see `xla_options.option_lines`."""
        return xla_options.option_lines(self._a_device)

    @property
    def _a_device(self) -> Any:
        """A device of this process, or the first device of a topology description."""
        devices, index = list(self.mesh.devices.flat), jax.process_index()
        return next((d for d in devices if d.process_index == index), devices[0])

    @property
    def devices(self) -> int:
        return self.mesh.size

    @property
    def local_devices(self) -> int:
        """Number of devices of this process."""
        return len(self.mesh.local_devices)

    def put_batch(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Makes global arrays, sharded over the devices, from this process's rows of a global batch."""
        if jax.process_count() == 1:  # a single call takes a fifth of the time
            return jax.device_put(dict(batch), self.batch)
        return {k: jax.make_array_from_process_local_data(self.batch, v) for k, v in batch.items()}

    def put_replicated(self, tree: Any) -> Any:
        """Puts `tree`, which must be the same on every process, on every device."""
        return put(tree, self.replicated)

    def local_mesh(self) -> Placement:
        """A mesh of this process's devices only, for computations without other processes."""
        return make_placement(self.mesh.local_devices)

    def local(self, tree: Any) -> Any:
        """Converts replicated arrays to arrays on `local_mesh()`, without copies."""
        sharding = self.local_mesh().replicated
        return jax.tree.map(
            lambda x: jax.make_array_from_single_device_arrays(
                x.shape, sharding, [shard.data for shard in x.addressable_shards]
            ),
            tree,
        )


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Makes global arrays from values that are the same on every process. Unlike `jax.device_put`, does not
    compare the values between processes, which takes a collective per call."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def one(array: Any) -> jax.Array:
        whole = np.asarray(array)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(one, tree)


def make_placement(
    devices: Sequence[Any] | None = None, data: int = 0, model: int = 1
) -> Placement:
    """Makes a mesh of the first `data` x `model` devices, with axis type Auto.

    Args:
        devices: None uses the devices of all processes.
        data: 0 uses all devices.
    """
    # By process, so that each holds consecutive rows of a batch and, if it fits, a whole `model` group.
    every = jax.devices() if devices is None else devices
    chosen = sorted(every, key=lambda device: (device.process_index, device.id))
    rows = np.asarray(chosen[: data * model] if data else chosen).reshape(-1, model)
    return Placement(Mesh(rows, AXES, axis_types=(AxisType.Auto, AxisType.Auto)))


def check_batch(batch_size: int, grad_accum_steps: int, devices: int) -> None:
    """Checks that a global batch splits evenly over devices and accumulation slices.

    Raises:
        ValueError: it does not; the message has the nearest batch size that does.
    """
    unit = devices * grad_accum_steps
    if batch_size % unit:
        nearest = max(1, round(batch_size / unit)) * unit
        raise ValueError(
            f"batch_size {batch_size} does not split over {devices} devices x {grad_accum_steps} "
            f"accumulation slices; the nearest that does: --config.batch_size={nearest}"
        )


def describe_devices() -> str:
    """Describes all devices: `8 x NVIDIA H100 (gpu)`."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
