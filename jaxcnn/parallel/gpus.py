"""Which GPUs of a node belong to which of the tasks on it."""

from __future__ import annotations

from pathlib import Path

from jaxcnn.parallel.environment import Environment, may_use, number

DEVICE_FILES = Path("/dev")


def visible(environment: Environment) -> int:
    """NVIDIA GPUs that a process in `environment` sees and JAX may use."""
    if not may_use(environment, "cuda", "gpu"):
        return 0
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        return len([d for d in shown.split(",") if d.strip() not in ("", "-1", "NoDevFiles")])
    # Under SLURM's control groups the files of other jobs' GPUs are there too, hence its own count first.
    files = [f for f in DEVICE_FILES.glob("nvidia*") if f.name.removeprefix("nvidia").isdecimal()]
    return number(environment, "SLURM_GPUS_ON_NODE", default=len(files))


def share(environment: Environment, task: int, tasks: int) -> tuple[int, ...] | None:
    """The GPUs of number `task` of the `tasks` on this node, counted among those that it sees.

    Returns:
        None for all that it sees: it is alone on the node; the launcher shows each task its own (fewer than
        the step has on this node, or than there are tasks); JAX_LOCAL_DEVICE_IDS says which, to JAX itself;
        or there are none.

    Raises:
        ValueError: the GPUs do not split evenly.
    """
    seen = visible(environment)
    granted = number(environment, "SLURM_GPUS_ON_NODE", default=seen)
    if tasks == 1 or seen < max(tasks, granted) or "JAX_LOCAL_DEVICE_IDS" in environment:
        return None
    if seen % tasks:
        raise ValueError(
            f"{tasks} tasks on this node see the same {seen} GPUs, which do not split evenly. Start one task "
            f"a node, or {seen}, or name each task's own in its environment: JAX_LOCAL_DEVICE_IDS=0,1"
        )
    each = seen // tasks
    return tuple(range(task * each, (task + 1) * each))
