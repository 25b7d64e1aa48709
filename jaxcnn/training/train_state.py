"""The training state: one dataclass of arrays, a pure function of (config, updates done)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import PartitionSpec
from jaxtyping import Array

from jaxcnn.parallel import GradReduce
from jaxcnn.training.ema import WeightAverage
from jaxcnn.training.schedules import Plateau


@struct.dataclass
class TrainState:
    """All that an update changes. The fields are arrays; in abstract evaluation, their shapes and dtypes.

    Attributes:
        step: int32[], updates done.
        params: the net's parameters, float32.
        opt_state: the optimizer's buffers.
        plateau: state of the plateau rule (`Plateau.initial_state`); empty for other schedules.
        average: parameters and count of Polyak averaging (`WeightAverage`); empty if it is off.
    """

    step: Any
    params: Any
    opt_state: Any
    plateau: Any
    average: Any

    @property
    def evaluated(self) -> Any:
        """The parameters that every evaluation uses: the averaged ones if averaging is on."""
        return self.average["params"] if self.average else self.params


@struct.dataclass
class Controls:
    """Inputs of an update from the host. They are arguments of the compiled step, so that runs which
    differ only in them share one program.

    Attributes:
        learning_rate: float32[].
        seed: int32[], seed of dropout.
        data_seed: int32[], seed of augmentation.
        averaged: bool[], whether the average includes this update.
        calls: int32[devices,2], one row per device: whether its process asks all to stop after this
            update, and whether its process has no batch for this update.
    """

    learning_rate: Any
    seed: Any
    data_seed: Any
    averaged: Any
    calls: Any


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Initial parameters.

    Attributes:
        seed: seed of the random initial weights; -1 takes the config's `seed`.
        from_run: workdir of another run, relative to the current directory; or a folder of `jaxcnn import`,
            or a weights file of another program whose source is recognised. A fresh run copies layers
            by name from the newest checkpoint, the averaged weights if that run averages. '': none.
        layers: layers or modules to copy; () copies every layer, of imported weights without the auxiliary
            heads that they lack. A classifier for another number of classes is initialized at random.
    """

    seed: int = -1
    from_run: str = ""
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.layers and not self.from_run:
            raise ValueError(f"layers {self.layers} need from_run, the workdir to take them from")


def create_state(
    net: Any, tx: optax.GradientTransformation, schedule: Any, average: WeightAverage, key: Array
) -> TrainState:
    """A fresh state with parameters drawn from `key`."""
    params = draw_params(net, key)
    plateau = schedule.initial_state() if isinstance(schedule, Plateau) else {}
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, params, tx.init(params), plateau, average.start(params))


def state_specs(
    shapes: TrainState, tx: optax.GradientTransformation, reduction: GradReduce
) -> TrainState:
    """The layout of each array of the state on the mesh: a `TrainState` of partition specs."""
    params = jax.tree.map(lambda x, leaf: leaf.spec(x.ndim), shapes.params, reduction.leaves)
    opt_state = optax.tree.map_params(
        tx,
        lambda x, leaf: leaf.kept_spec(x.ndim),
        shapes.opt_state,
        reduction.leaves,
        transform_non_params=lambda _: PartitionSpec(),
    )
    average = {k: params if k == "params" else PartitionSpec() for k in shapes.average}
    plateau = {k: PartitionSpec() for k in shapes.plateau}
    return TrainState(PartitionSpec(), params, opt_state, plateau, average)


def draw_params(net: Any, key: Array) -> Any:
    """Random initial parameters of a net in training form, with auxiliary heads."""
    images = jnp.zeros((1, net.image_size, net.image_size, 3), jnp.float32)
    key, dropout = jax.random.split(key)
    return net.init({"params": key, "dropout": dropout}, images, train=True)["params"]


def describe_leaves(tree: Any) -> dict[str, str]:
    """Name -> `float32[3, 3, 64, 64]` for every array of `tree`, for readable diffs."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }
