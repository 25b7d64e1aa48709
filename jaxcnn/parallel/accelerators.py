"""Which accelerators of a host belong to this process: a task's GPUs, and the hosts of a TPU slice.

The TPU functions only count hosts, to tell a slice from a single machine; JAX finds the coordinator itself.
JAX's own count is not used: it takes a metadata server that fails for a single machine, asks it through a
proxy, and opens a coordinator even for one host (jax 0.10 to 0.12).
"""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

Environment = Mapping[str, str]

DEVICE_FILES = Path("/dev")
TRIES, RETRY_SECONDS = 3, 0.5


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
        None if the task uses all visible GPUs. This holds if it is alone on the node, if the launcher shows
        each task only its own GPUs (fewer than the step has on this node, or fewer than there are tasks), if
        JAX_LOCAL_DEVICE_IDS selects them in JAX, or if there are no GPUs.

    Raises:
        ValueError: the GPUs do not split evenly.
    """
    seen = visible_gpus(environment)
    granted = number(environment, "SLURM_GPUS_ON_NODE", default=seen)
    if tasks == 1 or seen < max(tasks, granted) or "JAX_LOCAL_DEVICE_IDS" in environment:
        return None
    if seen % tasks:
        raise ValueError(
            f"{tasks} tasks on this node see the same {seen} GPUs, which do not split evenly. Start one task "
            f"per node, or {seen}, or set JAX_LOCAL_DEVICE_IDS=0,1 (its own GPUs) in each task's environment"
        )
    each = seen // tasks
    return tuple(range(task * each, (task + 1) * each))


def tpu_machines(environment: Environment) -> tuple[int, int] | None:
    """(count, index) of the machines of a TPU slice on Google Cloud, from the metadata server.

    Raises:
        ValueError: the server does not answer.
    """
    # JAX sets this variable when it is imported and finds no TPU.
    if "TPU_SKIP_MDS_QUERY" in environment:
        return None
    worker = _metadata(environment, "agent-worker-number")
    endpoints = _metadata(environment, "worker-network-endpoints")
    if worker is None or endpoints is None:
        return None
    of_slices = dict(re.findall(r"(\w+): *'?(\w+)'?", _metadata(environment, "tpu-env") or ""))
    of_slices |= {k: v for k, v in environment.items() if k.startswith("MEGASCALE_")}
    return over_slices(of_slices, len(endpoints.split(",")), int(worker))


def over_slices(environment: Environment, hosts: int, index: int) -> tuple[int, int]:
    """(count, index) of a host over all slices of a multislice job; `index` is that in its slice."""
    slice_id = number(environment, "MEGASCALE_SLICE_ID", default=0)
    return hosts * number(environment, "MEGASCALE_NUM_SLICES"), index + hosts * slice_id


def tpu_hosts(environment: Environment) -> list[str]:
    """Host names of a TPU slice, from Kubernetes' variables; empty if they are unset."""
    listed = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES", ""))
    return [host for host in listed.split(",") if host]


def has_tpu(environment: Environment) -> bool:
    """Whether JAX may use a TPU here and libtpu and the device files are present."""
    library = environment.get("TPU_LIBRARY_PATH")
    installed = Path(library).is_file() if library else find_spec("libtpu") is not None
    files = (*DEVICE_FILES.glob("accel[0-9]*"), *DEVICE_FILES.glob("vfio/[0-9]*"))
    return _may_use(environment, "tpu") and installed and bool(files)


def _metadata(environment: Environment, key: str) -> str | None:
    """Reads an attribute of this machine from the metadata server; None if the machine lacks it."""
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    address = f"http://{server}/computeMetadata/v1/instance/attributes/{key}"
    request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
    # The server is link-local: a proxy cannot reach it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    failure: object = None
    for attempt in range(TRIES):
        if attempt:
            time.sleep(RETRY_SECONDS)
        try:
            with opener.open(request, timeout=10) as answer:
                return answer.read().decode().strip()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            failure = error
        except OSError as error:
            failure = error
    raise ValueError(
        "this machine has TPUs, but its metadata server did not answer whether it belongs to a slice of "
        f"several machines: {address} ({failure}). For a single machine: --distributed=off; for several: "
        "--distributed=HOST:PORT,N,I (see --help)"
    )


def _may_use(environment: Environment, *platforms: str) -> bool:
    """Whether JAX_PLATFORMS is unset or lists one of `platforms` first."""
    first = environment.get("JAX_PLATFORMS", "").split(",")[0].strip()
    return first in ("", *platforms)
