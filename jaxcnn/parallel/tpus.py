"""The hosts of a TPU slice, from Kubernetes' variables or from the metadata server of Google's machines.

Only the counts are read, to tell a pod from a single machine: JAX finds the coordinator itself.
"""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

from jaxcnn.parallel.environment import Environment, Found, may_use, number

DEVICE_FILES = Path("/dev")
TRIES, RETRY_SECONDS = 3, 0.5


def from_kubernetes(environment: Environment) -> Found | None:
    """A slice's pods on GKE, whose variables name them."""
    listed = hosts(environment)
    if not listed or not has_tpu(environment):
        return None
    slices = number(environment, "MEGASCALE_NUM_SLICES")
    index = number(environment, "TPU_WORKER_ID", default=0)
    index += len(listed) * number(environment, "MEGASCALE_SLICE_ID", default=0)
    return "", len(listed) * slices, index, None


def from_metadata(environment: Environment) -> Found | None:
    """A slice's machines on Google Cloud, which their metadata server names.

    Raises:
        ValueError: the server does not answer.
    """
    # JAX itself sets the variable, on import, where it finds no TPU.
    if not has_tpu(environment) or "TPU_SKIP_MDS_QUERY" in environment:
        return None
    worker = _metadata(environment, "agent-worker-number")
    endpoints = _metadata(environment, "worker-network-endpoints")
    if worker is None or endpoints is None:
        return None
    of_slices = dict(re.findall(r"(\w+): *'?(\w+)'?", _metadata(environment, "tpu-env") or ""))
    of_slices |= {k: v for k, v in environment.items() if k.startswith("MEGASCALE_")}
    workers = len(endpoints.split(","))
    index = int(worker) + workers * number(of_slices, "MEGASCALE_SLICE_ID", default=0)
    return "", workers * number(of_slices, "MEGASCALE_NUM_SLICES"), index, None


def hosts(environment: Environment) -> list[str]:
    """The pods of a slice, where Kubernetes says which they are."""
    listed = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES", ""))
    return [host for host in listed.split(",") if host]


def has_tpu(environment: Environment) -> bool:
    """Whether JAX may and can use a TPU here: its library and device files are there."""
    library = environment.get("TPU_LIBRARY_PATH")
    installed = Path(library).is_file() if library else find_spec("libtpu") is not None
    files = (*DEVICE_FILES.glob("accel[0-9]*"), *DEVICE_FILES.glob("vfio/[0-9]*"))
    return may_use(environment, "tpu") and installed and bool(files)


def _metadata(environment: Environment, key: str) -> str | None:
    """An attribute of this machine; None where it has none of that name."""
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    address = f"http://{server}/computeMetadata/v1/instance/attributes/{key}"
    request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
    # The server is on the machine's own link: a proxy cannot reach it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    said: object = None
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
            said = error
        except OSError as error:
            said = error
    raise ValueError(
        f"this machine has TPUs, but its metadata server did not say whether it is one of several: {address} "
        f"({said}). If it is alone: --distributed=off; if not: --distributed=HOST:PORT,N,I (see --help)"
    )
