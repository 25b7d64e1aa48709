"""From a resolved config to the pieces of a run: net, update rule, compiled steps, first state."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import config as configs
from jaxcnn import models
from jaxcnn.data.pixel_statistics import Statistics
from jaxcnn.evaluation import Forward
from jaxcnn.losses import Objective
from jaxcnn.models.summary import order_of_computation
from jaxcnn.parallel import GradReduce, Parallelism, Placement, Plan, check_batch, choose_plan, put
from jaxcnn.preprocessing import Augment, DevicePreprocess, make_preprocess
from jaxcnn.training.ema import WeightAverage
from jaxcnn.training.schema import SECTIONS
from jaxcnn.training.train_state import Controls, TrainState, create_state, state_specs
from jaxcnn.training.train_step import make_train_step


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config, made. Nothing here holds arrays; steps are jitted but not yet compiled.

    Attributes:
        moved: MB that each possible plan sends an update and device.
        state_shardings: a `TrainState` of shardings.
        compiler_options: of XLA, for the train step.
    """

    config: Mapping[str, Any]
    net: Any
    tx: Any
    schedule: Any
    average: WeightAverage
    augment: Augment
    device_preprocess: DevicePreprocess
    placement: Placement
    plan: Plan
    reduction: GradReduce
    moved: Mapping[str, float]
    state_shardings: TrainState
    compiler_options: Mapping[str, str]
    train_step: Any

    def fresh_state(self) -> TrainState:
        """A new state, made in place on the devices."""
        # The key is an argument: XLA would take minutes to fold a constant one into the parameters.
        make = jax.jit(
            self._create,
            out_shardings=self.state_shardings,
            compiler_options=dict(self.compiler_options),
        )
        return make(jax.random.key(self.config["init"]["seed"]))

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state; computes nothing."""
        shapes = jax.eval_shape(self._create, jax.random.key(0))
        return jax.tree.map(_placed, shapes, self.state_shardings)

    def evaluated(self, state: TrainState) -> Any:
        """The parameters that evaluation uses, whole on each of this process's devices."""
        whole = state.evaluated if not self.plan.layers else self._gather(state.evaluated)
        return self.placement.local(whole)

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
        """What the update after `epoch` epochs takes from the host, on every device.

        Args:
            rate: learning rate.
            epoch: epochs seen before the update.
            leave: this process asks all to stop after the update.
            failed: this process has no batch, so the update must not count.
        """
        controls = self._put_known(float(rate), self.average.counts(epoch))
        calls = self._calls(leave, failed) if leave or failed else self._no_calls
        return dataclasses.replace(controls, calls=calls)

    @functools.cached_property
    def _put_known(self) -> Any:
        """(rate, averaged) -> controls without calls, on the devices: for many updates the same."""

        @functools.lru_cache(1)
        def put(rate: float, averaged: bool) -> Controls:
            controls = dataclasses.replace(self._controls(rate, averaged), calls=None)
            return self.placement.put_replicated(controls)

        return put

    @functools.cached_property
    def _no_calls(self) -> jax.Array:
        """On the devices once: nearly every update has no more to say."""
        return self._calls(False, False)

    def _calls(self, leave: bool, failed: bool) -> jax.Array:
        own = np.asarray([[leave, failed]] * self.placement.local_devices, np.int32)
        return self.placement.put_batch({"calls": own})["calls"]

    def lower_train(self) -> Any:
        """The train step, lowered for these shapes."""
        whole, split = self.placement.replicated, self.placement.batch
        shardings = Controls(whole, whole, whole, whole, split)
        controls = jax.tree.map(_placed, self._controls(0.0, False), shardings)
        return self.train_step.lower(self.abstract_state(), self.abstract_batch(), controls)

    def forward(self, **compiler: Any) -> Forward:
        """The net's forward passes for evaluation on this process's devices, with its share of a batch;
        for `compiler` see `Forward`."""
        here = self.placement.local_mesh()
        size = self.config["batch_size"] * here.devices // self.placement.devices
        return Forward(self.net, self.device_preprocess.mean, here, size, **compiler)

    def _create(self, key: Any) -> TrainState:
        return create_state(self.net, self.tx, self.schedule, self.average, key)

    def _controls(self, rate: float, averaged: bool) -> Controls:
        return Controls(
            learning_rate=np.float32(rate),
            seed=np.int32(self.config["seed"]),
            data_seed=np.int32(self.config["data"]["seed"]),
            averaged=np.bool_(averaged),
            calls=np.zeros((self.placement.devices, 2), np.int32),
        )


def assemble(
    config: Mapping[str, Any],
    statistics: Statistics | None = None,
    devices: Sequence[Any] | None = None,
) -> Experiment:
    """The pieces of a run of `config`, whose number of classes is known (`with_classes`).

    Args:
        statistics: of the data; None where the config's `augment` needs none.
        devices: to run on; None takes all that JAX has.

    Raises:
        ValueError: a mesh that the devices or the net do not fit, or a batch that does not split.
    """
    parallelism: Parallelism = configs.build_section("mesh", config["mesh"], SECTIONS)
    objective: Objective = configs.build_section("loss", config["loss"], SECTIONS)
    net = models.build(**config["model"])
    tx = configs.build_section("optim", config["optim"], SECTIONS)
    augment: Augment = configs.build_section("augment", config["augment"], SECTIONS)
    device_preprocess = make_preprocess(augment, statistics)
    average: WeightAverage = configs.build_section("average", config["average"], SECTIONS)
    schedule = configs.build_section("schedule", config["schedule"], SECTIONS)
    shapes = jax.eval_shape(partial(create_state, net, tx, schedule, average), jax.random.key(0))
    devices = list(jax.devices() if devices is None else devices)
    plan, reduction, moved = choose_plan(
        parallelism, net, shapes.params, order_of_computation(net), config["batch_size"], devices
    )
    placement = plan.placement(devices)
    check_batch(config["batch_size"], config["grad_accum_steps"], placement.devices)
    step = make_train_step(
        net,
        tx,
        objective,
        device_preprocess,
        average,
        plan.part,
        reduction,
        config["grad_accum_steps"],
    )
    specs = state_specs(shapes, tx, reduction)
    options = placement.compiler_options
    if placement.platform == "tpu" and len(reduction.buckets) == 1:
        options = {}  # they are all about sums in parts
    return Experiment(
        config=config,
        net=net,
        tx=tx,
        schedule=schedule,
        average=average,
        augment=augment,
        device_preprocess=device_preprocess,
        placement=placement,
        plan=plan,
        reduction=reduction,
        moved=moved,
        state_shardings=jax.tree.map(placement.sharding, specs),
        compiler_options=options,
        train_step=_on_mesh(step, placement, specs, options),
    )


def _on_mesh(step: Any, placement: Placement, specs: TrainState, options: Mapping[str, str]) -> Any:
    """The step of one device on all of them, jitted; the state is donated."""
    split, whole = placement.batch.spec, placement.replicated.spec
    controls = Controls(whole, whole, whole, whole, split)
    mapped = jax.shard_map(
        step,
        mesh=placement.mesh,
        in_specs=(specs, split, controls),
        out_specs=(specs, whole),
        check_vma=False,
    )
    shardings = jax.tree.map(placement.sharding, (specs, split, controls))
    return jax.jit(
        mapped,
        in_shardings=shardings,
        out_shardings=(shardings[0], placement.replicated),
        donate_argnums=0,
        compiler_options=dict(options),
    )


def _placed(array: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def with_classes(config: Mapping[str, Any], source_classes: int) -> dict[str, Any]:
    """`config` with the source's number of classes.

    Raises:
        ConfigError: the config names another number.
    """
    wanted = config["model"]["num_classes"]
    if wanted not in (0, source_classes):
        raise configs.ConfigError(
            f"model.num_classes is {wanted}, but {config['data']['source']} has {source_classes} classes; "
            "leave model.num_classes out, it follows the data"
        )
    return {**config, "model": {**config["model"], "num_classes": source_classes}}


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
