"""What training changes: one dataclass of arrays, a pure function of (config, updates done)."""

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
    """Fields are arrays, or what stands for arrays in abstract evaluation.

    Attributes:
        step: int32[], updates done.
        params: the net's parameters, float32.
        opt_state: the optimiser's buffers.
        plateau: best, waited, drops and judged of the plateau rule (`Plateau.initial_state`); empty where the
            schedule is another.
        average: params and count of Polyak averaging (`Average`); empty when it is off.
    """

    step: Any
    params: Any
    opt_state: Any
    plateau: Any
    average: Any

    @property
    def evaluated(self) -> Any:
        """The parameters that every evaluation uses: the averaged ones where there are such."""
        return self.average["params"] if self.average else self.params


@struct.dataclass
class Controls:
    """What the host hands to each update. Arguments of the compiled step, so that runs which differ in
    them alone share one program.

    Attributes:
        learning_rate: float32[].
        seed: int32[], of dropout.
        data_seed: int32[], of augmentation.
        averaged: bool[], whether the update counts in the average.
        calls: int32[devices,2], a row a device: whether its process asks all to stop after this update,
            and whether it has no batch for it.
    """

    learning_rate: Any
    seed: Any
    data_seed: Any
    averaged: Any
    calls: Any


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Where parameters start.

    Attributes:
        seed: they are drawn from it; -1 takes the config's `seed`.
        from_run: workdir of another run, relative to the current directory: a fresh run takes layers
            from its newest checkpoint by name, the averaged weights where it averages. '' takes none.
        layers: those to take, with all that is inside them; () takes every layer. A classifier of
            another number of classes is drawn anew.
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
    """A fresh state, its parameters drawn from `key`."""
    params = draw_params(net, key)
    plateau = schedule.initial_state() if isinstance(schedule, Plateau) else {}
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, params, tx.init(params), plateau, average.start(params))


def state_specs(
    shapes: TrainState, tx: optax.GradientTransformation, reduction: GradReduce
) -> TrainState:
    """How each array of the state lies on the mesh: a `TrainState` of partition specs."""

    def params(tree: Any) -> Any:
        return jax.tree.map(lambda x, leaf: leaf.spec(x.ndim), tree, reduction.leaves)

    whole = lambda tree: jax.tree.map(lambda _: PartitionSpec(), tree)  # noqa: E731
    opt_state = optax.tree.map_params(
        tx,
        lambda x, leaf: leaf.kept_spec(x.ndim),
        shapes.opt_state,
        reduction.leaves,
        transform_non_params=lambda _: PartitionSpec(),
    )
    average = {k: params(v) if k == "params" else whole(v) for k, v in shapes.average.items()}
    return TrainState(
        PartitionSpec(), params(shapes.params), opt_state, whole(shapes.plateau), average
    )


def draw_params(net: Any, key: Array) -> Any:
    """A net's parameters, in training form: auxiliary heads are made."""
    images = jnp.zeros((1, net.image_size, net.image_size, 3), jnp.float32)
    key, dropout = jax.random.split(key)
    return net.init({"params": key, "dropout": dropout}, images, train=True)["params"]


def describe_leaves(tree: Any) -> dict[str, str]:
    """Every array of `tree` as name -> `float32[3,3,64,64]`, for diffs a reader can use."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }
