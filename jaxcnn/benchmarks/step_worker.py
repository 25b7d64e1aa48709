"""The worker process of `step_speed`: one framework, one step per request. Imports JAX only to time it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from jaxcnn.benchmarks.measurement import peak_memory, time_call
from jaxcnn.data.loader import available_cores
from jaxcnn.malloc_tuning import give_back_freed

CLASSES = 1000
# Small enough that parameters do not diverge on random images.
_LEARNING_RATE, _MOMENTUM, _DECAY, _AUXILIARY = 1e-4, 0.9, 5e-4, 0.3


@dataclasses.dataclass(frozen=True)
class Job:
    """The settings of one row; `net` names a config."""

    net: str
    batch: int
    image_size: int
    width: float
    dtype: str
    mode: str = "inference"  # or "train"

    @property
    def what(self) -> str:
        size = f"{self.image_size} px" + (f", width {self.width:g}" if self.width != 1 else "")
        return f"{self.net} {self.mode}, {self.dtype}, batch {self.batch}, {size}"

    def config(self) -> Mapping[str, Any]:
        """The resolved config, without evaluations."""
        from jaxcnn.training import schema
        from jaxcnn.training.builder import with_classes

        side = self.image_size
        overrides = [
            *(f"batch_size={self.batch}", "grad_accum_steps=1", f"model.image_size={side}"),
            *(f"model.width={self.width}", f"model.dtype={self.dtype}", "evals=()"),
        ]
        if side > 256:  # the rescaled image must hold the crop
            overrides.append(f"augment.scale=({side},{side})")
        _, config = schema.read_resolved(self.net, overrides)
        return with_classes(config, config["model"]["num_classes"] or CLASSES)


def serve(pipe: Connection, job: Job, layers: list[list[Any]] | None) -> None:
    """Builds a step and sends facts about it, or the ValueError that prevents it. Then sends (seconds of a
    step, peak memory) for each True received, until the pipe is closed.

    Args:
        layers: PyTorch's net (see `layer_list`); None times jaxcnn.
    """
    try:
        step, facts = _torch(job, layers) if layers else _jax(job)
    except ValueError as error:
        pipe.send(error)
        return
    step()
    pipe.send(facts)
    with contextlib.suppress(EOFError):
        while pipe.recv():
            step()  # refills the caches after the other framework's step
            pipe.send((time_call(step), peak_memory()))


def _jax(job: Job) -> tuple[Callable[[], Any], dict[str, Any]]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxcnn.training.builder import build_experiment
    from jaxcnn.training.experiment import synthetic_batch
    from jaxcnn.training.train_state import draw_params

    experiment = build_experiment(job.config())
    device = jax.devices()[0]
    facts = {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": len(jax.devices()),
    }
    start = time.perf_counter()
    if job.mode == "train":
        compiled = experiment.lower_train().compile()
        facts["compile_seconds"] = time.perf_counter() - start
        give_back_freed()  # as in training
        state, batch = experiment.fresh_state(), synthetic_batch(experiment)
        controls = experiment.put_controls(_LEARNING_RATE)

        def train() -> None:
            nonlocal state
            state, sums = compiled(state, batch, controls)
            jax.block_until_ready((state, sums))

        return train, facts
    net, options = experiment.net, experiment.placement.compiler_options
    images = jnp.ones((job.batch, net.image_size, net.image_size, 3), jnp.float32)
    # From the host, like a checkpoint's: drawing them on the device takes more memory than the forward pass.
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(partial(draw_params, net), jax.random.key(0))

    def put(shape: jax.ShapeDtypeStruct) -> jax.Array:
        values = rng.standard_normal(shape.shape, np.float32)
        values *= 0.01
        return jax.device_put(values).block_until_ready()

    variables = {"params": jax.tree.map(put, shapes)}
    forward = jax.jit(lambda v, x: net.apply(v, x)[0], compiler_options=options)
    compiled = forward.lower(variables, images).compile()
    facts["compile_seconds"] = time.perf_counter() - start
    give_back_freed()
    return lambda: compiled(variables, images).block_until_ready(), facts


def _torch(job: Job, layers: list[list[Any]]) -> tuple[Callable[[], Any], dict[str, Any]]:
    from jaxcnn.benchmarks.torch_net import build_torch, import_torch

    torch = import_torch("torch")
    torch.set_num_threads(available_cores())
    net, dtype = build_torch(layers), getattr(torch, job.dtype)
    side = job.image_size
    images = torch.randn(job.batch, 3, side, side) * 50
    images = images.contiguous(memory_format=torch.channels_last)
    facts = {"version": f"PyTorch {torch.__version__}"}
    half = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    if job.mode == "inference":
        net.eval()

        def infer() -> None:
            with torch.inference_mode(), half:
                net(images)

        return infer, facts
    update = torch.optim.SGD(
        net.parameters(), _LEARNING_RATE, momentum=_MOMENTUM, weight_decay=_DECAY, foreach=True
    )
    *_, classes = layers[-1]
    labels = torch.randint(0, classes, (job.batch,))
    entropy = torch.nn.functional.cross_entropy

    def train() -> None:
        update.zero_grad(set_to_none=True)
        with half:
            logits, aux = net(images)
        loss = entropy(logits.float(), labels)
        loss = loss + _AUXILIARY * sum(entropy(head.float(), labels) for head in aux)
        loss.backward()
        update.step()

    return train, facts
