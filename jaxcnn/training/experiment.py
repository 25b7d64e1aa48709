"""The parts that a config describes, and what is made from them: first state, train step, forward passes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import config as configs
from jaxcnn.evaluation import Forward
from jaxcnn.jax_settings import PRNG
from jaxcnn.parallel import GradReduce, Placement, Plan, put
from jaxcnn.preprocessing import Augment, DevicePreprocess
from jaxcnn.training.ema import WeightAverage
from jaxcnn.training.schema import SECTIONS
from jaxcnn.training.train_state import Controls, TrainState, create_state
from jaxcnn.training.train_step import make_train_step


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a config describes, except devices: only their number and kind matter here.

    Attributes:
        comm_mb: MB that the plan, and each that could take its place, sends per update and device.
        state_shapes: a `TrainState` of shapes and dtypes.
        state_specs: a `TrainState` of partition specs.
    """

    net: Any
    tx: Any
    schedule: Any
    average: WeightAverage
    plan: Plan
    grad_reduce: GradReduce
    comm_mb: Mapping[str, float]
    state_shapes: TrainState
    state_specs: TrainState


@dataclasses.dataclass(frozen=True)
class Experiment(Parts):
    """The parts that a config describes. Holds no arrays; steps are jitted but not compiled.

    Attributes:
        compiler_options: XLA's, for the train step.
    """

    config: Mapping[str, Any]
    augment: Augment
    device_preprocess: DevicePreprocess
    placement: Placement
    compiler_options: Mapping[str, str]

    @functools.cached_property
    def state_shardings(self) -> TrainState:
        """A `TrainState` of shardings."""
        return jax.tree.map(self.placement.sharding, self.state_specs)

    @functools.cached_property
    def train_step(self) -> Any:
        """(state, batch, controls) -> (state, sums) on the mesh, jitted; the state is donated."""
        step = make_train_step(
            self.net,
            self.tx,
            configs.build_section("loss", self.config["loss"], SECTIONS),
            self.device_preprocess,
            self.average,
            self.plan.part,
            self.grad_reduce,
            self.config["grad_accum_steps"],
        )
        split, whole = self.placement.batch.spec, self.placement.replicated.spec
        inputs = (self.state_specs, split, _control_specs(whole, split))
        outputs = (self.state_specs, whole)
        mapped = jax.shard_map(
            step, mesh=self.placement.mesh, in_specs=inputs, out_specs=outputs, check_vma=False
        )
        in_shardings, out_shardings = jax.tree.map(self.placement.sharding, (inputs, outputs))
        return jax.jit(
            mapped,
            in_shardings=in_shardings,
            out_shardings=out_shardings,
            donate_argnums=0,
            compiler_options=dict(self.compiler_options),
        )

    def fresh_state(self) -> TrainState:
        """A new state, created in place on the devices."""
        # The key is an argument: XLA would spend minutes folding a constant key into the parameters.
        make = jax.jit(
            partial(create_state, self.net, self.tx, self.schedule, self.average),
            out_shardings=self.state_shardings,
            compiler_options=dict(self.compiler_options),
        )
        return make(jax.random.key(self.config["init"]["seed"], impl=PRNG))

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state; computes nothing."""
        return jax.tree.map(_placed, self.state_shapes, self.state_shardings)

    def evaluated(self, state: TrainState) -> Any:
        """The parameters that evaluation uses, replicated on this process's devices."""
        params = state.evaluated
        return self.placement.local(self._gather(params) if self.plan.layers else params)

    @functools.cached_property
    def _gather(self) -> Any:
        return jax.jit(lambda tree: tree, out_shardings=self.placement.replicated)

    def abstract_evaluated(self) -> Any:
        """Shapes, dtypes and shardings of `evaluated`."""
        whole = self.placement.local_mesh().replicated
        return jax.tree.map(lambda x: _placed(x, whole), self.abstract_state().evaluated)

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, dtypes and shardings of a global batch."""
        size, side = self.config["batch_size"], self.net.image_size
        make = partial(jax.ShapeDtypeStruct, sharding=self.placement.batch)
        return {
            "image": make((size, side, side, 3), jnp.uint8),
            "label": make((size,), jnp.int32),
            "id": make((size,), jnp.int32),
            "epoch": make((size,), jnp.int32),
            "box": make((size, 4), jnp.int32),
            "mask": make((size,), jnp.bool_),
        }

    def put_controls(
        self, rate: float, epoch: float = 0.0, *, leave: bool = False, failed: bool = False
    ) -> Controls:
        """The controls of the update made after `epoch` epochs, on every device.

        Args:
            rate: learning rate.
            epoch: epochs seen before the update.
            leave: this process asks all processes to stop after the update.
            failed: this process has no batch, so the update must not count.
        """
        put, put_calls = self._cached_puts
        controls = put(float(rate), self.average.counts(epoch))
        return dataclasses.replace(controls, calls=put_calls(leave, failed))

    @functools.cached_property
    def _cached_puts(self) -> tuple[Any, Any]:
        """((rate, averaged) -> controls without calls; (leave, failed) -> calls), on the devices. Cached,
        because most updates share them."""

        @functools.lru_cache(1)
        def put(rate: float, averaged: bool) -> Controls:
            controls = dataclasses.replace(self._controls(rate, averaged), calls=None)
            return self.placement.put_replicated(controls)

        @functools.cache
        def put_calls(leave: bool, failed: bool) -> jax.Array:
            own = np.asarray([[leave, failed]] * self.placement.local_devices, np.int32)
            return self.placement.put_batch({"calls": own})["calls"]

        return put, put_calls

    def lower_train(self) -> Any:
        """The train step, lowered for this experiment's shapes."""
        shardings = _control_specs(self.placement.replicated, self.placement.batch)
        controls = jax.tree.map(_placed, self._controls(0.0, False), shardings)
        return self.train_step.lower(self.abstract_state(), self.abstract_batch(), controls)

    def forward(self, **compiler: Any) -> Forward:
        """The net's forward passes for evaluation, on this process's devices with its share of a batch.
        `compiler` is passed to `Forward`."""
        here = self.placement.local_mesh()
        size = self.config["batch_size"] * here.devices // self.placement.devices
        return Forward(self.net, self.device_preprocess.mean, here, size, **compiler)

    def _controls(self, rate: float, averaged: bool) -> Controls:
        return Controls(
            learning_rate=np.float32(rate),
            seed=np.int32(self.config["seed"]),
            data_seed=np.int32(self.config["data"]["seed"]),
            averaged=np.bool_(averaged),
            calls=np.zeros((self.placement.devices, 2), np.int32),
        )


def _control_specs(whole: Any, split: Any) -> Controls:
    """The layout of the controls: `calls` is split over the devices, the others are replicated."""
    return Controls(whole, whole, whole, whole, calls=split)


def _placed(array: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def synthetic_batch(experiment: Experiment) -> dict[str, jax.Array]:
    """A batch of the real shapes with random pixels and labels, on the devices."""
    rng = np.random.default_rng(0)
    size = experiment.config["batch_size"]
    shapes = experiment.abstract_batch()
    batch: dict[str, np.ndarray] = {k: np.zeros(s.shape, s.dtype) for k, s in shapes.items()}
    batch["image"] = rng.integers(0, 256, shapes["image"].shape, np.uint8)
    batch["label"] = rng.integers(0, experiment.net.num_classes, size, np.int32)
    batch["id"] = np.arange(size, dtype=np.int32)
    batch["mask"][:] = True
    return put(batch, experiment.placement.batch)
