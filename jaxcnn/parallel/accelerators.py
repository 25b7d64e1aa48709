"""Which GPUs of a machine belong to this process, and whether the machine has a TPU."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

Environment = Mapping[str, str]

DEVICE_FILES = Path("/dev")


def number(environment: Environment, name: str, default: int = 1) -> int:
    """Reads a variable as a non-negative integer; `default` if it is unset or empty.

    Raises:
        ValueError: the variable is not an integer.
    """
    text = environment.get(name, "").strip()
    if text and not (text.isascii() and text.isdecimal()):
        raise ValueError(f"the environment variable {name} must be a whole number, got {text!r}")
    return int(text) if text else default


def visible_gpus(environment: Environment) -> int:
    """Counts the NVIDIA GPUs that a process in `environment` sees and JAX may use."""
    if not _may_use(environment, "cuda", "gpu"):
        return 0
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        return len([d for d in shown.split(",") if d.strip() not in ("", "-1", "NoDevFiles")])
    # SLURM's own count comes first: under its control groups, /dev also lists the GPUs of other jobs.
    files = [f for f in DEVICE_FILES.glob("nvidia*") if f.name.removeprefix("nvidia").isdecimal()]
    return number(environment, "SLURM_GPUS_ON_NODE", default=len(files))


def task_gpus(environment: Environment, task: int, tasks: int) -> tuple[int, ...] | None:
    """Returns the GPUs of task number `task` of the `tasks` on this node, as indices into the visible ones.

    Returns:
        () if the task uses all visible GPUs: if it is alone on the node, if the launcher shows each task
        only its own GPUs (fewer than the step has on this node, or fewer than there are tasks), or if there
        are none. None if JAX_LOCAL_DEVICE_IDS selects them in JAX.

    Raises:
        ValueError: the GPUs do not split evenly.
    """
    if "JAX_LOCAL_DEVICE_IDS" in environment:
        return None
    seen = visible_gpus(environment)
    granted = number(environment, "SLURM_GPUS_ON_NODE", default=seen)
    if tasks == 1 or seen < max(tasks, granted):
        return ()
    if seen % tasks:
        raise ValueError(
            f"{tasks} tasks on this node see the same {seen} GPUs, which do not split evenly. Start one task "
            f"per node, or {seen}, or set JAX_LOCAL_DEVICE_IDS=0,1 (its own GPUs) in each task's environment"
        )
    each = seen // tasks
    return tuple(range(task * each, (task + 1) * each))


def has_tpu(environment: Environment) -> bool:
    """Whether JAX may use a TPU here and libtpu and the device files are present."""
    library = environment.get("TPU_LIBRARY_PATH")
    installed = Path(library).is_file() if library else find_spec("libtpu") is not None
    files = (*DEVICE_FILES.glob("accel[0-9]*"), *DEVICE_FILES.glob("vfio/[0-9]*"))
    return _may_use(environment, "tpu") and installed and bool(files)


def _may_use(environment: Environment, *platforms: str) -> bool:
    """Whether JAX_PLATFORMS is unset or lists one of `platforms` first."""
    first = environment.get("JAX_PLATFORMS", "").split(",")[0].strip()
    return first in ("", *platforms)
