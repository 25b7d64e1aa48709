"""Forecasts memory, compute and communication of a step on hardware that is not attached."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax

from jaxcnn.parallel import Plan
from jaxcnn.parallel.comm_cost import Collective, comm_cost
from jaxcnn.planning import topology
from jaxcnn.planning.hardware import Network, network
from jaxcnn.planning.hlo import Transfer, cycles, read_transfers
from jaxcnn.planning.roofline import (
    MemoryModel,
    Roofline,
    StepCost,
    local_bytes,
    memory_traffic,
    peak_memory,
    roofline,
    seconds,
    step_cost,
    two_points,
)
from jaxcnn.planning.topology import Target
from jaxcnn.training.builder import build_experiment, make_parts, with_classes
from jaxcnn.training.dry_run import UNKNOWN_CLASSES, memory_bytes

HOST_CHIPS = 4  # TPU chips per host in libtpu's topology descriptions


class Compiled(NamedTuple):
    """Figures of a compiled step, for one chip.

    Attributes:
        arguments, outputs, aliased, temporaries: bytes; aliased outputs reuse the memory of arguments.
        peak: peak memory in bytes: arguments + outputs - aliased + temporaries.
        flops: floating-point operations, without those on padding.
        bytes: bytes read and written by its operations, in memory or on the chip.
        transfers: its collectives.
        cycles: the compiler's estimate of the computation's cycles.
        text: the compiled program (HLO).
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    peak: int
    flops: float
    bytes: float
    transfers: tuple[Transfer, ...]
    cycles: int
    text: str

    def record(self) -> dict[str, Any]:
        """A JSON-serializable record, without the program text."""
        fields = {k: v for k, v in self._asdict().items() if k != "text"}
        return fields | {"transfers": [t.record() for t in self.transfers]}


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Attributes:
    rows: images per chip.
    collectives: as modelled from shapes, even if the step was compiled.
    bounds: time bounds; if the step was compiled, with its collectives.
    memory: the model of a chip's memory; if the step was compiled, scaled to its peak.
    fitted: (rows, peak bytes) of a second compilation, if requested.
    """

    config: Mapping[str, Any]
    target: Target
    links: Network
    cost: StepCost
    plan: Plan
    rows: int
    collectives: tuple[Collective, ...]
    memory_bytes: float
    bounds: Roofline
    memory: MemoryModel
    model_peak: float
    compiled: Compiled | None
    fitted: tuple[int, float] | None

    @property
    def peak(self) -> float:
        return self.compiled.peak if self.compiled else self.model_peak

    @property
    def largest(self) -> int:
        """The largest number of images per chip that fits in memory."""
        return self.memory.rows(self.target.chip.usable)

    @property
    def largest_source(self) -> str:
        if self.fitted:
            rows, peak = self.fitted
            return (
                f"line through two compiled steps, of {self.rows} and {rows} ({peak / 1e9:.2f} GB)"
            )
        scaled = "model, scaled to the compiled step; --fit compiles at it"
        return scaled if self.compiled else "model"


def forecast(
    config: Mapping[str, Any], target: Target, gbps: float = 0.0, fit: bool = False
) -> Forecast:
    """Forecasts a training step of `config` on `target`.

    Args:
        gbps: Gb/s from a node or slice to the others; 0 uses the chip's default.
        fit: compile a second time, at the largest batch that fits according to the first compilation.

    Raises:
        ValueError: the batch or mesh does not fit the chips, there is no compiler, or the step does not fit
            in a chip's memory.
    """
    config = with_classes(config, config["model"]["num_classes"] or UNKNOWN_CLASSES)
    devices = topology.devices(target) if target.compiles else stand_ins(target)
    parts = make_parts(config, devices)
    net, plan, reduction = parts.net, parts.plan, parts.grad_reduce
    if plan.data * plan.model != len(devices):
        raise ValueError(
            f"mesh.data={plan.data} x mesh.model={plan.model} leaves some of the {len(devices)} chips "
            "unused; set mesh.data=0, or choose a --topology with as many chips"
        )
    sent = tuple(comm_cost(plan, reduction, net, parts.state_shapes.params, config["batch_size"]))
    links = network(target.chip, target.count, target.shape, target.node, gbps)
    cost, rows = step_cost(net), config["batch_size"] // target.count
    averaged = config["average"]["kind"] != "off"
    traffic = memory_traffic(cost, rows, reduction, net.dtype, averaged)
    state = local_bytes(parts.state_shapes, parts.state_specs, reduction.sizes)
    memory = model = peak_memory(cost, state, reduction, net.image_size, net.dtype)
    limits = roofline(cost.flops * rows, traffic, sent, target.chip, links, plan)
    compiled = fitted = None
    if target.compiles:
        compiled = compile_step(config, devices)
        limits = scheduled(limits, compiled, links, plan)
        memory = model.through(rows, float(compiled.peak))
        most = memory.rows(target.chip.usable)
        if fit and most > 0 and most != rows:
            again = compile_step({**config, "batch_size": most * target.count}, devices)
            fitted = (most, float(again.peak))
            memory = two_points((rows, float(compiled.peak)), fitted)
    return Forecast(
        config, target, links, cost, plan, rows, sent, traffic, limits, memory, model.peak(rows),
        compiled, fitted,
    )  # fmt: skip


def stand_ins(target: Target) -> list[SimpleNamespace]:
    """Stand-ins for devices, with the attributes that plans use; one process per node or host."""
    chip = target.chip
    host = HOST_CHIPS if chip.is_tpu else target.node or chip.node
    platform = "tpu" if chip.is_tpu else "gpu"
    return [
        SimpleNamespace(id=i, process_index=i // host, platform=platform)
        for i in range(target.count)
    ]


def compile_step(config: Mapping[str, Any], devices: Any) -> Compiled:
    """Compiles the training step of `config` for `devices`.

    Raises:
        ValueError: the step does not fit in a chip's memory.
    """
    lowered = build_experiment(config, devices=devices).lower_train()
    try:
        step = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        rows = config["batch_size"] // len(devices)
        reason = str(error).partition("RESOURCE_EXHAUSTED: ")[2].partition("\n")[0]
        raise ValueError(
            f"a step of {rows} images per chip does not fit in memory: {reason} Try a smaller "
            f"--config.batch_size ({config['batch_size']} here), --config.grad_accum_steps, "
            "--config.model.dtype=bfloat16 or --config.model.remat=True"
        ) from error
    stats, costs, text = step.memory_analysis(), step.cost_analysis() or {}, step.as_text()
    return Compiled(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        peak=memory_bytes(step),
        flops=costs.get("flops", float("nan")),
        bytes=costs.get("bytes accessed", float("nan")),
        transfers=tuple(read_transfers(text)),
        cycles=cycles(text),
        text=text,
    )


def scheduled(limits: Roofline, compiled: Compiled, links: Network, plan: Plan) -> Roofline:
    """Replaces the network time of `limits` by the compiled collectives; synchronous ones are not hidden."""
    times = [
        (t, seconds(Collective(t.kind, t.what, t.bytes, t.devices), links, plan))
        for t in compiled.transfers
        if t.devices > 1
    ]
    waits = sum(time for t, time in times if not t.carriers)
    return limits._replace(network=sum(time for _, time in times), waits=waits)


def versions() -> dict[str, str]:
    """Versions of the installed packages that determine the figures."""
    found = {}
    for name in ("jax", "jaxlib", "libtpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
