"""From a resolved config to an `Experiment`: net, update rule, plan of parallelism, mesh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxcnn import config as configs
from jaxcnn import models
from jaxcnn.data.pixel_statistics import Statistics
from jaxcnn.models.summary import order_of_computation
from jaxcnn.parallel import Parallelism, check_batch, choose_plan
from jaxcnn.preprocessing import Augment, make_preprocess
from jaxcnn.training.experiment import Experiment, Parts
from jaxcnn.training.schema import SECTIONS
from jaxcnn.training.train_state import create_state, state_specs


def make_parts(config: Mapping[str, Any], devices: Sequence[Any]) -> Parts:
    """Builds the net, the update rule and the plan of parallelism.

    Args:
        config: resolved, with a known number of classes (`with_classes`).
        devices: JAX devices, or stand-ins with `id`, `process_index` and `platform`.

    Raises:
        ValueError: a mesh that does not fit the devices or the net, or a batch that does not split.
    """
    rules = net, tx, schedule, average = net_and_rules(config)
    shapes = jax.eval_shape(partial(create_state, *rules), jax.random.key(0))
    parallelism: Parallelism = configs.build_section("mesh", config["mesh"], SECTIONS)
    plan, grad_reduce, comm_mb = choose_plan(
        parallelism, net, shapes.params, order_of_computation(net), config["batch_size"], devices
    )
    check_batch(config["batch_size"], config["grad_accum_steps"], plan.data * plan.model)
    specs = state_specs(shapes, tx, grad_reduce)
    return Parts(net, tx, schedule, average, plan, grad_reduce, comm_mb, shapes, specs)


def net_and_rules(config: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
    """(net, optimizer, schedule, weight average) of a config with a known number of classes."""
    rules = (
        configs.build_section(name, config[name], SECTIONS)
        for name in ("optim", "schedule", "average")
    )
    return models.build(**config["model"]), *rules


def build_experiment(
    config: Mapping[str, Any],
    devices: Sequence[Any] | None = None,
) -> Experiment:
    """The experiment of a config on `devices` (None: all); see `make_parts` for both and for errors.

    Statistics of the data are placeholders, enough for shapes and timing; a run replaces them.
    """
    devices = list(jax.devices() if devices is None else devices)
    parts = make_parts(config, devices)
    augment: Augment = configs.build_section("augment", config["augment"], SECTIONS)
    placement = parts.plan.placement(devices)
    side, options = augment.scale[0], placement.compiler_options
    grey = np.full((side, side, 3), 127.5, np.float32)
    placeholder = Statistics(np.full(3, 127.5), np.eye(3), grey, {})
    if placement.platform == "tpu" and len(parts.grad_reduce.buckets) == 1:
        options = {}  # they all concern sums in several buckets
    return Experiment(
        **vars(parts),
        config=config,
        augment=augment,
        device_preprocess=make_preprocess(augment, placeholder),
        placement=placement,
        compiler_options=options,
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
