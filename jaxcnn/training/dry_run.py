"""`--dry_run`: one step and one evaluation batch of the real shapes, on synthetic images."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from typing import Any

import jax

from jaxcnn.evaluation.buckets import InputShape
from jaxcnn.models.summary import format_table, summarise
from jaxcnn.parallel import describe_devices
from jaxcnn.training.builder import build_experiment, with_classes
from jaxcnn.training.experiment import Experiment, synthetic_batch

UNKNOWN_CLASSES = 1000


def dry_run(config: Mapping[str, Any]) -> str:
    """Compiles and runs a train step and an evaluation step; returns a text with memory and time.

    Reads no dataset and writes no file. If the config takes the number of classes from the data, 1000
    classes are used.
    """
    config = with_classes(config, config["model"]["num_classes"] or UNKNOWN_CLASSES)
    experiment = build_experiment(config)
    print(format_table(summarise(experiment.net)), flush=True)
    batch = synthetic_batch(experiment)
    state = experiment.fresh_state()
    train, train_text = _compile("train", experiment.lower_train())
    forward = experiment.forward()
    crop = InputShape("crop", experiment.net.image_size, experiment.net.image_size)
    evaluate, evaluate_text = _compile(
        "evaluation", forward.lower(experiment.abstract_evaluated(), crop)
    )
    crops = forward.placement.put_batch(forward.empty(crop))
    state, step_seconds = _time(
        lambda: train(state, batch, experiment.put_controls(experiment.schedule(0.0)))[0]
    )
    _, eval_seconds = _time(lambda: evaluate(experiment.evaluated(state), crops))
    size = config["batch_size"]
    return "\n".join(
        [
            "",
            f"dry run: {describe_devices()}, batch {size}, {experiment.net.num_classes} classes, "
            "random images",
            train_text,
            evaluate_text,
            f"one train step       {step_seconds:8.2f} s   {size / step_seconds:8.1f} images/s",
            f"one evaluation batch {eval_seconds:8.2f} s   {size / eval_seconds:8.1f} images/s",
            f"peak memory of this process {_peak() / 1e9:.2f} GB{_device_memory(experiment)}",
        ]
    )


def memory_bytes(compiled: Any) -> int:
    """Peak memory of a compiled step on one device, in bytes: arguments, outputs not aliased, temporaries."""
    stats = compiled.memory_analysis()
    return (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        - stats.alias_size_in_bytes
        + stats.temp_size_in_bytes
    )


def _compile(what: str, lowered: Any) -> tuple[Any, str]:
    began = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    return (
        compiled,
        f"{what + ' step':<16} compiled in {seconds:.1f} s, {memory_bytes(compiled) / 1e9:.2f} GB per device",
    )


def _time(call: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    result = jax.block_until_ready(call())
    return result, time.perf_counter() - began


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _device_memory(experiment: Experiment) -> str:
    stats = experiment.placement.mesh.devices.flat[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return f", of a device {peak / 1e9:.2f} GB" if peak else ""
