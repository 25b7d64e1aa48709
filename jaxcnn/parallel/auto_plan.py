"""Chooses the parallelism plan: the configured one, or the one that sends the fewest bytes.

The default is data parallel. Bytes alone do not tell the faster plan: the inputs of split layers are gathered
on the critical path, while the backward pass can hide an all-reduce of gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn.parallel.comm_cost import comm_cost
from jaxcnn.parallel.grad_reduce import GradReduce, make_grad_reduce
from jaxcnn.parallel.parallelism import PLAN_NAMES, Parallelism, Plan


def choose_plan(
    wanted: Parallelism,
    net: Any,
    params: Any,
    order: Sequence[str],
    batch_size: int,
    devices: Sequence[Any],
) -> tuple[Plan, GradReduce, dict[str, float]]:
    """Chooses the configured plan, or with 'auto' the one of the possible plans with the least communication.

    Args:
        params: the net's abstract parameters.
        order: its layers in the order of computation.
        batch_size: global batch size.

    Returns:
        (the plan, its gradient reduction, MB that it and each plan that could take its place send per update
        and device).

    Raises:
        ValueError: the mesh does not fit the devices, or the net does not support the plan.
    """
    reductions = {
        plan: make_grad_reduce(plan, wanted, params, order)
        for plan in _candidates(wanted, net, devices)
    }
    moved = {
        plan: sum(c.bytes_moved for c in comm_cost(plan, reduction, net, params, batch_size)) / 1e6
        for plan, reduction in reductions.items()
    }
    plan = min(moved, key=lambda plan: moved[plan]) if wanted.plan == "auto" else next(iter(moved))
    return plan, reductions[plan], {plan.name: mb for plan, mb in moved.items()}


def _candidates(wanted: Parallelism, net: Any, devices: Sequence[Any]) -> list[Plan]:
    """The configured plan first; with 'data' or 'auto', all possible plans, with data parallel first."""
    local = sum(d.process_index == devices[0].process_index for d in devices)
    if wanted.plan not in ("data", "auto"):
        model = {"towers": 2, "fully_connected": local}[wanted.plan]
        return [_plan(wanted.plan, wanted.model or model, wanted, net, devices)]
    model = wanted.model or (1 if wanted.data else local)
    plans = [_plan("data", wanted.model or 1, wanted, net, devices)]
    if model > 1 and len(devices) % model == 0:
        if net.fully_connected(model):
            plans.append(_plan("fully_connected", model, wanted, net, devices))
        if model == 2 and not net.towers_problem():
            plans.append(_plan("towers", model, wanted, net, devices))
    return plans


def _plan(name: str, model: int, wanted: Parallelism, net: Any, devices: Sequence[Any]) -> Plan:
    _check_mesh(wanted.data, model, devices)
    layers = frozenset()
    if name == "towers":
        if problem := net.towers_problem() or (
            model != 2 and f"two towers need mesh.model=2, got {model}"
        ):
            raise ValueError(f"mesh.plan=towers: {problem}; or take another mesh.plan")
        layers = net.tower_layers()
    if name == "fully_connected" and model > 1:
        layers = net.fully_connected(model)
        if not layers:
            raise ValueError(
                f"mesh.plan=fully_connected: no fully connected layer of this {type(net).__name__} "
                f"splits over mesh.model={model} devices; take mesh.plan=data, or another mesh.model"
            )
    return Plan(name, wanted.data or len(devices) // model, model, layers)


def _check_mesh(data: int, model: int, devices: Sequence[Any]) -> None:
    count = len(devices)
    processes = len({device.process_index for device in devices})
    if data == 0 and count % model:
        fitting = ", ".join(str(m) for m in range(1, count + 1) if count % m == 0)
        raise ValueError(
            f"mesh.model={model} does not divide the {count} devices; it can be {fitting}"
        )
    if data * model > count:
        raise ValueError(
            f"mesh.data={data} x mesh.model={model} needs {data * model} devices, but there are {count}; "
            "set mesh.data=0 to use them all"
        )
    if data and data * model < count and processes > 1:
        raise ValueError(
            f"mesh.data={data} x mesh.model={model} leaves some of the {count} devices of "
            f"{processes} processes unused; set mesh.data=0"
        )


def plan_lines(
    plan: Plan, reduction: GradReduce, moved: Mapping[str, float]
) -> list[tuple[str, str]]:
    """(name, text) rows for the console; empty on one device."""
    if plan.data * plan.model == 1:
        return []
    others = [f"mesh.plan={name} {mb:,.1f} MB" for name, mb in moved.items() if name != plan.name]
    alternatives = f" (with {', '.join(others)})" if others else ""
    sent = f"gradients are sent in {reduction.dtype}"
    if len(reduction.buckets) > 1:
        sent += f", in {len(reduction.buckets)} buckets"
    if any(leaf.shard_axis >= 0 for leaf in reduction.flat()):
        sent += ", each device updates its shard"
    return [
        ("mesh", f"data {plan.data} x model {plan.model}, {PLAN_NAMES[plan.name]}"),
        ("", f"{moved[plan.name]:,.1f} MB sent per update and device{alternatives}"),
        ("", sent),
    ]
