"""A net as StableHLO, by jax.export: a folder that needs JAX and flatbuffers, and neither jaxcnn nor Flax.

program.stablehlo is the function of (weights, images), for any batch, in one file for all platforms.
weights.npz has the parameters. As constants of the program XLA would transform them whenever it compiles:
AlexNet takes 5.6 s and 2.1 GB for a size of batch instead of 0.6 s and 0.8 GB (on two cores of an AMD EPYC).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from jaxcnn.files import atomic_file, write_arrays, write_text
from jaxcnn.models.kernels.dispatch import plain_forms
from jaxcnn.weights.programs.description import describe
from jaxcnn.weights.programs.program import PLATFORMS, Program

PROGRAM, WEIGHTS, CLASSES, FACTS = (
    "program.stablehlo", "weights.npz", "classes.txt", "program.json",
)  # fmt: skip
USAGE = """\
import jax, numpy as np
from jax import export
program = export.deserialize(bytearray(open("program.stablehlo", "rb").read()))
weights = jax.device_put(dict(np.load("weights.npz")))
outputs = jax.jit(program.call)(weights, images)
"""


def export_program(program: Program) -> export.Exported:
    """The program for a batch of any size on all PLATFORMS, a function of (weights, images). Its weights may
    be abstract."""
    with plain_forms():
        return export.export(jax.jit(program.__call__), platforms=PLATFORMS)(*program.arguments())


def write_stablehlo(program: Program, folder: Path, origin: Mapping[str, Any]) -> None:
    """Makes `folder` and writes the program, its weights and class names, and program.json, which describes
    them and says how to run them. Raises WriteError."""
    exported = export_program(program)
    folder.mkdir()
    with atomic_file(folder / PROGRAM) as file:
        file.write(exported.serialize())
    weights = {path: np.asarray(leaf) for path, leaf in program.weights.items()}
    write_arrays(folder / WEIGHTS, compressed=False, **weights)
    write_text(folder / CLASSES, "".join(f"{name}\n" for name in program.classes))
    # A program runs in the version of JAX that wrote it, and in later ones.
    needs = (f"jax>={jax.__version__}", "flatbuffers")
    write_text(folder / FACTS, describe(program, needs, USAGE, origin))


def read_stablehlo(folder: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The function from images to outputs that a folder of `write_stablehlo` holds, read as its users do."""
    program = export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    with np.load(folder / WEIGHTS, allow_pickle=False) as file:
        weights = jax.device_put(dict(file))
    call = jax.jit(program.call)
    return lambda images: {k: np.asarray(v) for k, v in call(weights, images).items()}
