"""`--dry_run`: one step and one evaluation batch of the real shapes, on synthetic images."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxcnn.evaluation.buckets import InputShape
from jaxcnn.models.summary import summarise
from jaxcnn.models.summary_text import format_table
from jaxcnn.parallel import describe_devices
from jaxcnn.training.builder import build_experiment, with_classes
from jaxcnn.training.experiment import synthetic_batch

UNKNOWN_CLASSES = 1000


def dry_run(config: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Compiles and runs a train step and an evaluation step; returns (figures, the same as text).

    Reads no dataset and writes no file. If the config takes the number of classes from the data, 1000
    classes are used.
    """
    config = with_classes(config, config["model"]["num_classes"] or UNKNOWN_CLASSES)
    experiment = build_experiment(config)
    net, size = experiment.net, config["batch_size"]
    print(format_table(summarise(net)), flush=True)
    batch, state = synthetic_batch(experiment), experiment.fresh_state()
    lines = [
        "",
        f"dry run: {describe_devices()}, batch {size}, {net.num_classes} classes, random images",
    ]

    figures: dict[str, Any] = {"batch_size": size, "num_classes": net.num_classes}

    def compiled(what: str, lowered: Any) -> Any:
        step, seconds = _timed(lowered.compile)
        memory, name = memory_bytes(step), what.replace(" ", "_")
        figures.update({f"{name}_compile_seconds": seconds, f"{name}_bytes_per_device": memory})
        lines.append(f"{what:<16} compiled in {seconds:.1f} s, {memory / 1e9:.2f} GB per device")
        return step

    train, forward = compiled("train step", experiment.lower_train()), experiment.forward()
    crop = InputShape("crop", net.image_size, net.image_size)
    evaluate = compiled("evaluation step", forward.lower(experiment.abstract_evaluated(), crop))
    crops = forward.placement.put_batch(forward.empty(crop))
    controls = experiment.put_controls(experiment.schedule(0.0))
    state, step_seconds = _timed(lambda: train(state, batch, controls)[0])
    _, eval_seconds = _timed(lambda: evaluate(experiment.evaluated(state), crops))
    for what, seconds in (("train step", step_seconds), ("evaluation batch", eval_seconds)):
        figures[f"{what.replace(' ', '_')}_seconds"] = seconds
        lines.append(f"one {what:<16} {seconds:8.2f} s   {size / seconds:8.1f} images/s")
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    device = experiment.placement.mesh.devices.flat[0].memory_stats() or {}
    peak = device.get("peak_bytes_in_use", 0)
    figures.update({"peak_bytes_of_process": process, "peak_bytes_of_device": peak})
    on_device = f", of a device {peak / 1e9:.2f} GB" if peak else ""
    lines.append(f"peak memory of this process {process / 1e9:.2f} GB{on_device}")
    return figures, "\n".join(lines)


def memory_bytes(compiled: Any) -> int:
    """Peak memory of a compiled step on one device, in bytes: arguments, outputs not aliased, temporaries."""
    stats = compiled.memory_analysis()
    return (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        - stats.alias_size_in_bytes
        + stats.temp_size_in_bytes
    )


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """(result of `call`, seconds until it is on the device)."""
    began = time.perf_counter()
    result = jax.block_until_ready(call())
    return result, time.perf_counter() - began
