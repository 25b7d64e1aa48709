"""From a resolved config to the pieces of a run: net, update rule, compiled steps, first state."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import config as configs
from jaxcnn import models
from jaxcnn.data.statistics import Statistics
from jaxcnn.evaluation import Forward
from jaxcnn.losses import Objective
from jaxcnn.parallel.mesh import Placement, check_batch
from jaxcnn.pixels import Augment, Treatment, make_treatment
from jaxcnn.training.averaging import Average
from jaxcnn.training.sections import SECTIONS
from jaxcnn.training.state import Controls, TrainState, create
from jaxcnn.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config, made. Nothing here holds arrays; steps are jitted but not yet compiled."""

    config: Mapping[str, Any]
    net: Any
    tx: Any
    schedule: Any
    average: Average
    augment: Augment
    treatment: Treatment
    placement: Placement
    train_step: Any

    def fresh_state(self) -> TrainState:
        """A new state, made in place on the devices."""
        # The key is an argument: XLA would take minutes to fold a constant one into the parameters.
        make = jax.jit(self._create, out_shardings=self.placement.replicated)
        return make(jax.random.key(self.config["init"]["seed"]))

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state; computes nothing."""
        shapes = jax.eval_shape(self._create, jax.random.key(0))
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=self.placement.replicated),
            shapes,
        )

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

    def put_controls(self, rate: float, epoch: float = 0.0) -> Controls:
        """What the update after `epoch` epochs takes from the host, on every device.

        Args:
            rate: learning rate.
            epoch: epochs seen before the update.
        """
        return self.placement.put_replicated(self._controls(rate, epoch))

    def lower_train(self) -> Any:
        """The train step, lowered for these shapes."""
        controls = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.placement.replicated),
            self._controls(0.0, 0.0),
        )
        return self.train_step.lower(self.abstract_state(), self.abstract_batch(), controls)

    def forward(self, **compiler: Any) -> Forward:
        """The net's forward passes for evaluation; for `compiler` see `Forward`."""
        size = self.config["batch_size"]
        return Forward(self.net, self.treatment.mean, self.placement, size, **compiler)

    def _create(self, key: Any) -> TrainState:
        return create(self.net, self.tx, self.schedule, self.average, key)

    def _controls(self, rate: float, epoch: float) -> Controls:
        return Controls(
            learning_rate=np.float32(rate),
            seed=np.int32(self.config["seed"]),
            data_seed=np.int32(self.config["data"]["seed"]),
            averaged=np.bool_(self.average.counts(epoch)),
        )


def assemble(config: Mapping[str, Any], statistics: Statistics | None = None) -> Experiment:
    """The pieces of a run of `config`, whose number of classes is known (`with_classes`).

    Args:
        statistics: of the data; None where the config's `augment` needs none.

    Raises:
        ValueError: a batch that does not split over the devices.
    """
    placement = configs.build("mesh", config["mesh"], SECTIONS)
    objective: Objective = configs.build("loss", config["loss"], SECTIONS)
    check_batch(config["batch_size"], objective.accumulate, placement)
    net = models.build(**config["model"])
    tx = configs.build("optim", config["optim"], SECTIONS)
    augment: Augment = configs.build("augment", config["augment"], SECTIONS)
    treatment = make_treatment(augment, statistics)
    average: Average = configs.build("average", config["average"], SECTIONS)
    whole, split = placement.replicated, placement.batch
    return Experiment(
        config=config,
        net=net,
        tx=tx,
        schedule=configs.build("schedule", config["schedule"], SECTIONS),
        average=average,
        augment=augment,
        treatment=treatment,
        placement=placement,
        train_step=jax.jit(
            make_train_step(net, tx, objective, treatment, average),
            in_shardings=(whole, split, whole),
            out_shardings=(whole, whole),
            donate_argnums=0,
        ),
    )


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
    return experiment.placement.put_batch(batch)
