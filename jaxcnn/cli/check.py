"""Resolves a config and prints the shapes and bytes of batch, state and step; computes nothing.

python -m jaxcnn.cli.check configs/vgg_e.py [SECTION.KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxcnn import config as configs
from jaxcnn.parallel import describe_devices, plan_lines
from jaxcnn.planning import roofline
from jaxcnn.training import schema
from jaxcnn.training.builder import assemble, with_classes
from jaxcnn.training.dry_run import UNKNOWN_CLASSES
from jaxcnn.training.evaluator import run_protocols
from jaxcnn.training.run_statistics import stand_in
from jaxcnn.training.train_state import describe_leaves
from jaxcnn.training.warm_start import read_warm_start


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jaxcnn.cli.check", description="What a config means, computing nothing."
    )
    parser.add_argument("config", help="file, or name of one in configs/")
    parser.add_argument("overrides", nargs="*", help="SECTION.KEY=VALUE")
    options = parser.parse_args(arguments)
    try:
        given, config = schema.read_resolved(
            options.config, options.overrides, Path(__file__).parents[2] / "configs"
        )
        print(configs.format_config(config, given, options.overrides))
        print()
        print(describe(config))
    except configs.ConfigError as error:
        print(f"config error: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def describe(config: dict[str, Any]) -> str:
    """Shapes and bytes of the batch, the state and the step of `config`, as text."""
    config = with_classes(config, config["model"]["num_classes"] or UNKNOWN_CLASSES)
    experiment = assemble(config, stand_in(config))
    transfer = read_warm_start(experiment)
    state, batch = experiment.abstract_state(), experiment.abstract_batch()
    rows = config["batch_size"] / experiment.placement.mesh.size
    flops = rows * roofline.step_cost(experiment.net).flops
    lines = [f"{name:<8} {text}" for name, text in (transfer.lines() if transfer else [])]
    lines += [f"devices  {describe_devices()}"]
    mesh = plan_lines(experiment.plan, experiment.reduction, experiment.moved)
    lines += [f"{name:<8} {text}" for name, text in mesh] + ["batch"]
    lines += [f"  {name:<40} {text}" for name, text in describe_leaves(batch).items()]
    lines += ["parameters"]
    lines += [f"  {name:<40} {text}" for name, text in describe_leaves(state.params).items()]
    lines += [
        f"batch      {_bytes(batch) / 1e6:12.1f} MB",
        f"parameters {_bytes(state.params) / 1e6:12.1f} MB",
        f"state      {_bytes(state) / 1e6:12.1f} MB (parameters, momentum, average if any, counters)",
        *_evaluations(config),
        f"train step {flops / 1e9:12.1f} GFLOP a device, in multiply-adds of the layers",
    ]
    return "\n".join(lines)


def _evaluations(config: dict[str, Any]) -> list[str]:
    side, found = config["model"]["image_size"], []
    for protocol in run_protocols(config):
        looks = len(protocol.crops(375, 500, side))
        when = f"every {protocol.every_epochs:g} epochs" if protocol.every_epochs else "at the end"
        found.append(f"evaluation {protocol.label(side)}, looks at 500 x 375: {looks}, {when}")
    return found


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
