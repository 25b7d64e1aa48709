"""The worker process of `step_speed`: one framework, one step per request.

Its argument is a job as JSON. It writes a line of JSON when it is ready, and one for each line `step` on its
standard input; it exits at the end of the input.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from jaxcnn.benchmarks.measurement import peak_memory
from jaxcnn.malloc_tuning import give_back_freed

CLASSES = 1000
# Small enough that random images do not drive the parameters away.
_LEARNING_RATE, _MOMENTUM, _DECAY, _AUXILIARY = 1e-4, 0.9, 5e-4, 0.3


def main(job: Mapping[str, Any]) -> None:
    start = time.perf_counter()
    step = (_torch if job["peer"] else _jax)(job)
    step()
    _write({"ready": time.perf_counter() - start, **step.facts})
    for _ in sys.stdin:
        step()  # the caches hold the other framework's data
        start = time.perf_counter()
        step()
        _write({"seconds": time.perf_counter() - start, "memory_bytes": peak_memory()})


def _write(answer: Mapping[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


class _Step:
    """A step that waits for its result, and facts about it."""

    def __init__(self, call: Callable[[], Any], **facts: Any) -> None:
        self._call, self.facts = call, facts

    def __call__(self) -> None:
        self._call()


def config_of(job: Mapping[str, Any]) -> Mapping[str, Any]:
    """The resolved config of a job."""
    from jaxcnn.training import schema
    from jaxcnn.training.builder import with_classes

    side, width, dtype = job["image_size"], job["width"], job["dtype"]
    overrides = [
        *(f"batch_size={job['batch']}", "grad_accum_steps=1", f"model.image_size={side}"),
        *(f"model.width={width}", f"model.dtype={dtype}", "evals=()"),  # no evaluation
    ]
    if side > 256:  # the rescaled image must hold the crop
        overrides.append(f"augment.scale=({side},{side})")
    _, config = schema.read_resolved(job["net"], overrides)
    return with_classes(config, config["model"]["num_classes"] or CLASSES)


def _jax(job: Mapping[str, Any]) -> _Step:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxcnn.training.builder import build_experiment
    from jaxcnn.training.experiment import synthetic_batch
    from jaxcnn.training.train_state import draw_params

    config = config_of(job)
    experiment = build_experiment(config)
    start = time.perf_counter()
    if job["mode"] == "train":
        compiled = experiment.lower_train().compile()
        facts = {"compile_seconds": time.perf_counter() - start, **_device(jax)}
        give_back_freed()  # as in training
        state, batch = experiment.fresh_state(), synthetic_batch(experiment)
        controls = experiment.put_controls(_LEARNING_RATE)

        def train() -> None:
            nonlocal state
            state, sums = compiled(state, batch, controls)
            jax.block_until_ready((state, sums))

        return _Step(train, **facts)
    net, options = experiment.net, experiment.placement.compiler_options
    shape = (experiment.config["batch_size"], net.image_size, net.image_size, 3)
    images = jnp.zeros(shape, jnp.float32) + 1.0
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
    facts = {"compile_seconds": time.perf_counter() - start, **_device(jax)}
    give_back_freed()
    return _Step(lambda: compiled(variables, images).block_until_ready(), **facts)


def _device(jax: Any) -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": len(jax.devices()),
    }


def _torch(job: Mapping[str, Any]) -> _Step:
    from jaxcnn.benchmarks.torch_net import build_torch, import_torch

    torch = import_torch("torch")
    torch.set_num_threads(job["cores"])
    net, dtype = build_torch(job["layers"]), getattr(torch, job["dtype"])
    layout = {"memory_format": torch.channels_last}
    side = job["image_size"]
    images = (torch.randn(job["batch"], 3, side, side) * 50).contiguous(**layout)
    labels = torch.randint(0, job["classes"], (job["batch"],))
    facts = {"version": f"PyTorch {torch.__version__}"}
    half = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    if job["mode"] == "inference":
        net.eval()

        def infer() -> None:
            with torch.inference_mode(), half:
                net(images)

        return _Step(infer, **facts)
    update = torch.optim.SGD(
        net.parameters(), _LEARNING_RATE, momentum=_MOMENTUM, weight_decay=_DECAY, foreach=True
    )
    entropy = torch.nn.functional.cross_entropy

    def train() -> None:
        update.zero_grad(set_to_none=True)
        with half:
            logits, aux = net(images)
        loss = entropy(logits.float(), labels)
        loss = loss + _AUXILIARY * sum(entropy(head.float(), labels) for head in aux)
        loss.backward()
        update.step()

    return _Step(train, **facts)


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except ValueError as error:
        _write({"error": str(error)})
        sys.exit(1)
