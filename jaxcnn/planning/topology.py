"""Topologies that are not attached: parses --topology, and describes TPU slices to the TPU compiler.

libtpu, which contains the compiler, is a Python package that runs on any x86-64 Linux machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import MutableMapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from jaxcnn.parallel.accelerators import Environment
from jaxcnn.paths import local_path
from jaxcnn.planning.hardware import CHIPS, Chip

# Slices that libtpu 0.0.42 supports; it cannot list them.
EXAMPLES = {"v4": "v4:2x2x4", "v5e": "v5e:4x4", "v5p": "v5p:2x2x4", "v6e": "v6e:4x4"}
INSTALL = "pip install 'libtpu==0.0.42.*' (700 MB; also part of the extra jaxcnn[tpu])"

# A topology description needs no hosts, but without host names libtpu prints warnings. It also locks the
# machine's TPUs, which compilation does not use.
_SILENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Target(NamedTuple):
    """The chips that a run is planned for.

    Attributes:
        kind: a key of CHIPS.
        shape: of a TPU slice; () if only the number of chips is known.
        count: number of chips.
        node: GPUs per node; 0 is the chip's default.
    """

    kind: str
    shape: tuple[int, ...]
    count: int
    node: int

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]

    @property
    def compiles(self) -> bool:
        """Whether programs can be compiled for it without such a chip."""
        return bool(self.shape)

    @property
    def name(self) -> str:
        size = "x".join(map(str, self.shape or (self.count,)))
        return f"{self.kind}:{size}{f',{self.node}' if self.node else ''}"


def read_target(text: str) -> Target:
    """Parses a TPU slice (`v5e:4x4`), a number of TPUs (`v5e:512`), or GPUs and GPUs per node (`h100:16,4`).

    Raises:
        ValueError: the text has another form.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)(?:,(\d+))?", text)
    if not match or match[1] not in CHIPS:
        raise ValueError(f"--topology={text} is not a kind and a size; {known()}")
    kind, sizes = match[1], tuple(int(n) for n in match[2].split("x"))
    chip, count, node = CHIPS[kind], math.prod(sizes), int(match[3] or 0)
    shape = sizes if len(sizes) > 1 else ()
    long = sum(length > 1 for length in shape)
    if count == 0 or (chip.is_tpu and node) or long > chip.axes:
        raise ValueError(f"--topology={text}: {known()}")
    group = node or chip.node
    if count > group and count % group:
        nearest = max(1, round(count / group)) * group
        raise ValueError(
            f"--topology={text}: {count} chips are not a multiple of the {group} chips of a "
            f"{'slice' if chip.is_tpu else 'node'}; the nearest multiple: --topology={kind}:{nearest}"
            f"{f',{node}' if node else ''}"
        )
    return Target(kind, shape, count, node)


def known() -> str:
    """Describes the valid values of --topology."""
    gpus = ", ".join(kind for kind, chip in CHIPS.items() if not chip.is_tpu)
    return (
        f"give a TPU slice ({', '.join(EXAMPLES.values())}), for which the step is compiled, or, for "
        f"modelled figures, a number of TPUs (v5e:512) or of GPUs ({gpus}; h100:16, or h100:16,4: 4 per node)"
    )


def set_up(environment: MutableMapping[str, str], target: Target) -> None:
    """Sets the variables that JAX reads at its start. JAX then uses no accelerator of this machine.

    Raises:
        ValueError: libtpu is needed and not installed.
    """
    environment["JAX_PLATFORMS"] = "cpu"
    if target.compiles:
        environment["TPU_LIBRARY_PATH"] = str(library(environment))
        environment.update(_SILENT)


def library(environment: Environment) -> Path:
    """Finds libtpu.so: TPU_LIBRARY_PATH, else the installed package.

    Raises:
        ValueError: it is not found.
    """
    if named := environment.get("TPU_LIBRARY_PATH"):
        if (path := local_path(named, "TPU_LIBRARY_PATH")).is_file():
            return path
        raise ValueError(
            f"TPU_LIBRARY_PATH={named} is not a file; unset it, or set it to the path of libtpu.so"
        )
    spec = find_spec("libtpu")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (found := Path(folder) / "libtpu.so").is_file():
            return found
    raise ValueError(
        f"the TPU's compiler, libtpu, is not installed: {INSTALL}. For modelled figures without it, "
        "give only the number of chips: --topology=v5e:16"
    )


def devices(target: Target) -> list[Any]:
    """Returns the devices of a slice, one per chip, to lower and compile for.

    Raises:
        ValueError: libtpu does not support the slice.
    """
    from jax.errors import JaxRuntimeError
    from jax.experimental.topologies import get_topology_desc

    # By default a v4 has one device per core.
    options = {"chip_config_name": "megacore"} if target.kind == "v4" else {}
    try:
        found = get_topology_desc(platform="tpu", topology_name=target.name, **options).devices
    except JaxRuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"--topology={target.name}: libtpu does not support this slice ({reason}); {known()}"
        ) from error
    if len(found) != target.count:
        raise ValueError(
            f"--topology={target.name}: expected {target.count} devices, one per chip, but libtpu made "
            f"{len(found)}; {known()}"
        )
    return list(found)
