"""The formats that a trained net is exported to: how each is written, and how it is read to check it."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.folders import atomic_output
from jaxcnn.paths import Path
from jaxcnn.weights.programs.agreement import Difference, difference, probe_images
from jaxcnn.weights.programs.onnx_writer import read_onnx, write_onnx
from jaxcnn.weights.programs.program import Program
from jaxcnn.weights.programs.savedmodel import read_savedmodel, write_savedmodel
from jaxcnn.weights.programs.stablehlo import read_stablehlo, write_stablehlo

Run = Callable[[np.ndarray], Mapping[str, Any]]


class ExportFormat(NamedTuple):
    """A format.

    Attributes:
        write: (program, path, origin) makes the file or folder at `path`.
        read: path -> the function from images to outputs that the file or folder holds.
        last: name of the file without which the folder is none.
    """

    write: Callable[[Program, pathlib.Path, Mapping[str, Any]], None]
    read: Callable[[pathlib.Path], Run]
    last: str = ""


EXPORT_FORMATS = {
    "stablehlo": ExportFormat(write_stablehlo, read_stablehlo, "program.json"),
    "savedmodel": ExportFormat(write_savedmodel, read_savedmodel, "saved_model.pb"),
    "onnx": ExportFormat(write_onnx, read_onnx),
}


class ExportError(ValueError):
    """What was written does not compute what jaxcnn computes."""


def export_program(
    program: Program,
    format_name: str,
    path: Path,
    reference: Run,
    origin: Mapping[str, Any],
    progress: Callable[[str], None] = lambda _: None,
) -> Difference:
    """Writes `program` to `path`, reads it again, runs it on two images, and compares it with `reference`.

    Args:
        format_name: a key of EXPORT_FORMATS.
        reference: the same outputs of images by other means.
        origin: where the weights come from; JSON, written with the program.
        progress: is told what begins; it may raise to stop.

    Raises:
        FileExistsError: `path` exists.
        WriteError: it cannot be written.
        ExportError: it differs from `reference`. Nothing is left at `path` then.
    """
    form, images = EXPORT_FORMATS[format_name], probe_images(*program.size)
    with atomic_output(path, form.last) as made:
        progress(f"writing {format_name} ...")
        form.write(program, made, origin)
        progress("running it on two images ...")
        found = difference(form.read(made)(images), reference(images))
        if not found.agrees:
            raise ExportError(
                f"{path} is not written: its outputs differ from jaxcnn's by {found.deviations:.1e} of their "
                "standard deviation; please report this with the command and the net's config"
            )
    return found
