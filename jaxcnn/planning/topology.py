"""Chips that are not here: a slice of TPUs by its name, for the real compiler without a TPU.

libtpu, the TPU's compiler, is an ordinary package that works on any x86-64 Linux machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import MutableMapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from jaxcnn.parallel.accelerators import Environment
from jaxcnn.planning.hardware import CHIPS, Chip

# Slices that libtpu 0.0.42 makes; it cannot list them.
EXAMPLES = {"v4": "v4:2x2x4", "v5e": "v5e:4x4", "v5p": "v5p:2x2x4", "v6e": "v6e:4x4"}
INSTALL = "pip install 'libtpu==0.0.42.*' (alone, 700 MB; the extra jaxcnn[tpu] brings it too)"

# A slice that is only described needs no machines: without names for them libtpu asks for some, on stderr.
# It also locks the machine's TPUs, which a compiler does not use.
_SILENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Target(NamedTuple):
    """Chips that a run is planned for.

    Attributes:
        kind: a key of CHIPS.
        shape: of a TPU slice; () where only their number is known.
        count: chips.
        node: GPUs of a node; 0 is the usual.
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
        """Whether there is a compiler for it that needs no such chip."""
        return bool(self.shape)

    @property
    def name(self) -> str:
        size = "x".join(map(str, self.shape or (self.count,)))
        return f"{self.kind}:{size}{f',{self.node}' if self.node else ''}"


def read_target(text: str) -> Target:
    """`v5e:4x4`, a slice of TPUs; `v5e:512`, some TPUs; `h100:16` or `h100:16,4`, GPUs and GPUs a node.

    Raises:
        ValueError: it is nothing of these.
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
            f"--topology={text}: {count} chips are not a multiple of the {group} of a "
            f"{'slice' if chip.is_tpu else 'node'}; the nearest that are: --topology={kind}:{nearest}"
            f"{f',{node}' if node else ''}"
        )
    return Target(kind, shape, count, node)


def known() -> str:
    """What may be typed."""
    gpus = ", ".join(kind for kind, chip in CHIPS.items() if not chip.is_tpu)
    return (
        f"give a slice of TPUs ({', '.join(EXAMPLES.values())}), which is compiled for; a number of TPUs "
        f"(v5e:512) or of GPUs ({gpus}, such as h100:16, or h100:16,4 with 4 a node), from a model"
    )


def set_up(environment: MutableMapping[str, str], target: Target) -> None:
    """What JAX must find in `environment` when it starts; it then takes no accelerator of this machine.

    Raises:
        ValueError: libtpu is needed and is not there.
    """
    environment["JAX_PLATFORMS"] = "cpu"
    if target.compiles:
        environment["TPU_LIBRARY_PATH"] = str(library(environment))
        environment.update(_SILENT)


def library(environment: Environment) -> Path:
    """libtpu's file: of TPU_LIBRARY_PATH, else of the package.

    Raises:
        ValueError: there is none.
    """
    if named := environment.get("TPU_LIBRARY_PATH"):
        if Path(named).is_file():
            return Path(named)
        raise ValueError(
            f"TPU_LIBRARY_PATH={named} is not a file; unset it, or type the path of libtpu.so"
        )
    spec = find_spec("libtpu")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (found := Path(folder) / "libtpu.so").is_file():
            return found
    raise ValueError(
        f"the TPU's compiler, libtpu, is not installed: {INSTALL}. Without it, the model's figures: give the "
        "number of chips alone, such as --topology=v5e:16"
    )


def devices(target: Target) -> list[Any]:
    """The devices of a slice, one a chip, to lower and compile for.

    Raises:
        ValueError: libtpu makes no such slice.
    """
    from jax.errors import JaxRuntimeError
    from jax.experimental.topologies import get_topology_desc

    # Otherwise one device a core.
    options = {"chip_config_name": "megacore"} if target.kind == "v4" else {}
    try:
        found = get_topology_desc(platform="tpu", topology_name=target.name, **options).devices
    except JaxRuntimeError as error:
        said = str(error).partition("\n")[0]
        raise ValueError(
            f"--topology={target.name}: libtpu makes no such slice ({said}); {known()}"
        ) from error
    if len(found) != target.count:
        raise ValueError(
            f"--topology={target.name}: expected {target.count} devices, one a chip, but libtpu made "
            f"{len(found)}; {known()}"
        )
    return list(found)
