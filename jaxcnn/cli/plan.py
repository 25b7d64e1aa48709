"""Estimate memory and speed of a config on accelerators that this machine lacks.

topologies:
  v5e:4x4     a slice of TPUs (also v4:2x2x4, v5p:2x2x4, v6e:4x4): the TPU compiler compiles the step, which
              takes minutes for VGG at full size. It needs no TPU, but: pip install 'libtpu==0.0.42.*'
  v5e:512     a number of TPUs: figures from a model
  h100:16     GPUs (also a100, v100), 8 per node: figures from a model; h100:16,4 means 4 per node
Each figure is marked 'compiled' (read from the compiled step) or 'model' (computed from the net's layers and
the parallelism plan). The bounds assume the chip's peak rates; no step is faster. 1 GB = 10^9 bytes. The exit
code is 1 if a step does not fit. --config.SECTION.KEY=VALUE overrides a key of the config.

example: jaxcnn plan --config=vgg_e --topology=v5e:4x4 --config.model.dtype=bfloat16
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from jaxcnn.cli.arguments import Output, add_json, path
from jaxcnn.files import write_text

KEPT = "nothing was written"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.set_defaults(overrides=())
    add("--config", required=True, help="file, or name of a file in configs/")
    add("--topology", required=True, help="KIND:SIZE, see below")
    help_text = (
        "network bandwidth of a node, all its GPUs together, in Gb/s (h100: 3200, others: 100)"
    )
    add("--network_gbps", type=_gbps, default=0.0, metavar="GBPS", help=help_text)
    help_text = "compile again at the largest batch size, to verify that it fits"
    add("--fit", action="store_true", help=help_text)
    add("--hlo", type=path, metavar="FILE", help="write the compiled program to FILE")
    add_json(parser)


def _gbps(text: str) -> float:
    value = float(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {value:g}")
    return value


def run(options: argparse.Namespace) -> Output:
    os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX is imported
    from jaxcnn.planning.topology import read_target, set_up

    target = read_target(options.topology)
    set_up(os.environ, target)
    from jaxcnn.planning.forecast import forecast
    from jaxcnn.training import schema

    _, config = schema.read_resolved(options.config, options.overrides)
    found = forecast(config, target, options.network_gbps, options.fit)
    if options.hlo and found.compiled:
        write_text(options.hlo, found.compiled.text)
    lines = [*_figures(found), "", *_collectives(found), "", *_bounds(found)]
    return Output(_record(found), "\n".join(lines))


def _figures(found: Any) -> list[str]:
    """A title, and the figures of a step, each with its origin."""
    from jaxcnn.parallel.parallelism import PLAN_NAMES

    plan, model, work, step = found.plan, found.config["model"], found.cost, found.compiled
    net = f"{model['name']} {model.get('column', '')}".strip()
    title = (
        f"{net} on {found.target.name}: {found.rows} images a chip x {found.target.count}, "
        f"{model['dtype']}, data {plan.data} x model {plan.model}, {PLAN_NAMES[plan.name]}"
    )
    rows: list[tuple[str, str, str]] = []

    def add(name: str, amount: str, source: str) -> None:
        rows.append((name, amount, source))

    usable = f"GB of {found.target.chip.usable / 1e9:.1f}"
    if step:
        new = f"outputs not in their place {(step.outputs - step.aliased) / 1e9:.2f}"
        parts = (
            f"arguments {step.arguments / 1e9:.2f}, temporaries {step.temporaries / 1e9:.2f}, {new}"
        )
        add("memory a chip", f"{step.peak / 1e9:.2f} {usable}", f"compiled: {parts}")
        add("operations", f"{step.flops / 1e12:.2f} TFLOP a chip", "compiled: none on padding")
        traffic = "compiled: what operations read and write, in part on the chip"
        add("memory traffic", f"{step.bytes / 1e9:.1f} GB a chip", traffic)
        cycles = f"compiled: {step.cycles:,} cycles of fusions alone"
        add("estimate", _estimate(found, step.cycles), cycles)
    add("memory a chip", f"{found.model_peak / 1e9:.2f} {usable}", "model")
    add("largest batch", f"{found.largest} images a chip", found.largest_source)
    add("multiply-adds", f"{work.macs / 1e9:.3f} G an image", "model: forward")
    flops = f"{work.flops * found.rows / 1e12:.2f} TFLOP a chip"
    add("operations", flops, f"model: {work.flops / 1e9:.2f} GFLOP an image")
    passes = "model: 5 passes over activations, and the update"
    add("memory traffic", f"{found.memory_bytes / 1e9:.1f} GB a chip", passes)
    return [title, "", *(f"{name:<14} {amount:>20}   {source}" for name, amount, source in rows)]


def _estimate(found: Any, cycles: int) -> str:
    """Cycles of the compiler's estimate, as time where the clock is known."""
    clock = found.target.chip.clock
    return f"{1e3 * cycles / clock:.2f} ms" if clock else f"{cycles / 1e6:.2f} M cycles"


def _collectives(found: Any) -> list[str]:
    from jaxcnn.parallel.comm_cost import Collective
    from jaxcnn.planning.hlo import layer
    from jaxcnn.planning.roofline import seconds

    def line(kind: str, size: float, devices: int, what: str) -> str:
        ms = 1e3 * seconds(Collective(kind, what, size, devices), found.links, found.plan)
        return f"  {kind:<18} {size / 1e6:9.2f} MB x {devices:<4} {ms:8.2f} ms   {what}"

    if not found.compiled:
        rows = [line(c.kind, c.bytes, c.devices, c.what) for c in found.collectives]
        return ["collectives of a step: model", *(rows or ["  none"])]
    rows = []
    for transfer in found.compiled.transfers:
        how = "asynchronous, under nothing" if transfer.asynchronous else "synchronous"
        if transfer.carriers:
            named = dict.fromkeys(layer(c.name) for c in transfer.carriers if "/" in c.name)
            under = ", ".join(named) or "unnamed fusions"
            how = f"asynchronous, under {under} ({_estimate(found, transfer.cycles)})"
        what = f"{transfer.dtype} {layer(transfer.what)}: {how}"
        rows.append(line(transfer.kind, transfer.bytes, transfer.devices, what))
    return ["collectives of a step, in the order they start: compiled", *(rows or ["  none"])]


def _bounds(found: Any) -> list[str]:
    chip, links, limits = found.target.chip, found.links, found.bounds
    bytes_from, across = "compiled bytes" if found.compiled else "model", ""
    if found.target.count > links.node:
        node = "slice" if chip.is_tpu else "node"
        across = f", {links.uplink * 8e-9:,.0f} Gb/s a {node} of {links.node}"
    rows = [
        (f"compute: model, {chip.flops / 1e12:.0f} TFLOP/s", limits.compute),
        (f"memory: model, {chip.bandwidth / 1e12:.2f} TB/s", limits.memory),
        (f"network: {bytes_from}, {links.link / 1e9:.0f} GB/s a chip{across}", limits.network),
        ("step, if nothing overlaps", limits.none_hidden),
        *([("step, overlapped as compiled", limits.step)] if found.compiled else []),
        ("step, if all overlaps", limits.hidden),
    ]
    size = found.config["batch_size"]
    lines = [f"{'bounds':<68} {'ms a step':>10} {'images/s':>12} {'a chip':>10}"]
    for name, value in rows:
        rates = [f"{n / value:,.0f}" if value else "-" for n in (size, found.rows)]
        lines.append(f"{name:<68} {1e3 * value:10.2f} {rates[0]:>12} {rates[1]:>10}")
    return lines


def _record(found: Any) -> dict[str, Any]:
    """The figures for JSON: bytes, seconds and counts. `compiled` is null where nothing was compiled."""
    from jaxcnn.planning.forecast import versions

    limits, chip, size = found.bounds, found.target.chip, found.config["batch_size"]
    seconds = limits._asdict() | {
        "none_hidden": limits.none_hidden,
        "as_scheduled": limits.step if found.compiled else None,
        "all_hidden": limits.hidden,
    }
    return {
        "topology": found.target.name,
        "chips": found.target.count,
        "batch_size": size,
        "batch_a_chip": found.rows,
        "model": dict(found.config["model"]),
        "mesh": dict(found.config["mesh"]),
        "plan": {"name": found.plan.name, "data": found.plan.data, "model": found.plan.model},
        "versions": versions(),
        "chip": chip._asdict(),
        "network": found.links._asdict(),
        "memory": {
            "source": "compiled" if found.compiled else "model",
            "peak_bytes": found.peak,
            "usable_bytes": chip.usable,
            "largest_batch_a_chip": found.largest,
            "largest_batch_source": found.largest_source,
        },
        "estimate": {
            "multiply_adds_an_image": found.cost.macs,
            "flops_an_image": found.cost.flops,
            "flops_a_chip": found.cost.flops * found.rows,
            "peak_bytes": found.model_peak,
            "memory_traffic_bytes": found.memory_bytes,
            "collectives": [c._asdict() | {"sends": c.bytes_moved} for c in found.collectives],
        },
        "compiled": found.compiled.record() if found.compiled else None,
        "seconds": seconds,
        "images_a_second": {k: size / v if v else None for k, v in seconds.items()},
    }
