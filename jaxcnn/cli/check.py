"""Show every key, shape and size of a config; computes nothing.

example: jaxcnn check vgg_e batch_size=64
"""

from __future__ import annotations

import argparse
from typing import Any

from jaxcnn.cli.arguments import Output, add_config, add_json

KEPT = "nothing was computed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> Output:
    from jaxcnn import config as configs
    from jaxcnn.training import schema

    given, config = schema.read_resolved(options.config, options.overrides)
    text, record = _describe(config)
    keys = configs.format_config(config, given, options.overrides)
    return Output({"config": config, **record}, f"{keys}\n\n{text}")


def _describe(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Shapes and bytes of batch, state and step, as text and by name."""
    import jax

    from jaxcnn.parallel import describe_devices, plan_lines
    from jaxcnn.planning import roofline
    from jaxcnn.training.builder import build_experiment, with_classes
    from jaxcnn.training.dry_run import UNKNOWN_CLASSES
    from jaxcnn.training.train_state import describe_leaves
    from jaxcnn.training.warm_start import read_warm_start

    def size(tree: Any) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    config = with_classes(config, config["model"]["num_classes"] or UNKNOWN_CLASSES)
    experiment = build_experiment(config)
    warm_start = read_warm_start(experiment)
    state, batch = experiment.abstract_state(), experiment.abstract_batch()
    images = config["batch_size"] / experiment.placement.mesh.size
    flops = images * roofline.step_cost(experiment.net).flops
    plan = plan_lines(experiment.plan, experiment.grad_reduce, experiment.comm_mb)
    shapes = {"batch": describe_leaves(batch), "parameters": describe_leaves(state.params)}
    sizes = {"batch": size(batch), "parameters": size(state.params), "state": size(state)}
    named = [*(warm_start.lines() if warm_start else []), ("devices", describe_devices()), *plan]
    lines = [f"{name:<8} {text}" for name, text in named]
    for name, leaves in shapes.items():
        lines += [name, *(f"  {leaf:<40} {text}" for leaf, text in leaves.items())]
    lines += [f"{name:<10} {n / 1e6:12.1f} MB" for name, n in sizes.items()]
    lines[-1] += " (parameters, momentum, average if any, counters)"
    lines += _evaluations(config)
    lines += [f"train step {flops / 1e9:12.1f} GFLOP a device, in multiply-adds of the layers"]
    return "\n".join(lines), {"shapes": shapes, "bytes": sizes, "flops_a_device": flops}


def _evaluations(config: dict[str, Any]) -> list[str]:
    from jaxcnn.training.schema import run_protocols

    side, lines = config["model"]["image_size"], []
    for protocol in run_protocols(config):
        crops = len(protocol.crops(375, 500, side))
        when = f"every {protocol.every_epochs:g} epochs" if protocol.every_epochs else "at the end"
        label = protocol.label(side)
        lines.append(f"evaluation {label}, {crops} crops of 500 x 375 pixels, {when}")
    return lines
