"""Write a trained net as a program that runs without jaxcnn, or its weights for other programs.

programs:
  stablehlo    a folder for JAX, on CPU, CUDA and TPU; program.json in it says how to run it
  savedmodel   a folder for TensorFlow
  onnx         a file for ONNX Runtime and others, opset 18; needs pip install 'jaxcnn[onnx]'

weights:
  safetensors  a file with jaxcnn's names; every command takes it like a run
  npz          the same as arrays of NumPy
  torchvision  torchvision's state dict, a .pth or .safetensors file: VGG A, B, D, E, and nets that equal its
               AlexNet or GoogLeNet

A program takes images as they are, uint8 RGB [any number, height, width, 3], and puts out probabilities;
with --features the output of a layer instead, with --dense the score map of images of one size. It computes
in float32. It is read again and run on two images: an error if it does not give what jaxcnn gives.
A file of weights is read again too, and compared bit by bit.

example: jaxcnn export RUN --format=stablehlo --out=PATH
         jaxcnn export RUN --format=torchvision --out=FILE.pth
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcnn.cli.arguments import Output, add_json, add_weights_choices, path, weights_choices
from jaxcnn.cli.exit_codes import UsageError
from jaxcnn.folders import files_in, is_taken
from jaxcnn.paths import file_size

if TYPE_CHECKING:
    from jaxcnn.training.console import Console
    from jaxcnn.training.load_run import Loaded
    from jaxcnn.weights.programs.program import Program

KEPT = "nothing is written"
# The keys of EXPORT_FORMATS, and WEIGHT_FORMATS; to import these takes a second.
PROGRAMS = ("stablehlo", "savedmodel", "onnx")
WEIGHTS = ("safetensors", "npz", "torchvision")
TWICE = (0, 0)  # twice the net's image_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=path, help="folder of a run or of imported weights, or a weights file")
    add("--format", required=True, choices=PROGRAMS + WEIGHTS, help="what to write")
    add("--out", type=path, required=True, help="file or folder to make; it must not exist")
    add("--features", default="", metavar="LAYER", help="put out this layer: fc7, inception_5b")
    help_text = "score map of images of this size (twice the net's image_size)"
    add("--dense", type=sides, nargs="?", const=TWICE, metavar="HEIGHT,WIDTH", help=help_text)
    add("--step", type=int, default=None, help="step of the checkpoint (the newest)")
    add_weights_choices(parser)
    add_json(parser)


def sides(text: str) -> tuple[int, int]:
    """A type of argument: height and width."""
    try:
        height, width = map(int, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers such as 384,512; got {text!r}. Only the number of images may be any"
        ) from None
    return height, width


def run(options: argparse.Namespace) -> Output:
    if is_taken(options.out):
        raise UsageError(f"{options.out} exists, and nothing is overwritten; give another --out")
    if options.format in WEIGHTS and (options.features or options.dense):
        raise UsageError(
            f"--features and --dense belong to a program, one of {', '.join(PROGRAMS)}; "
            f"{options.format} has weights alone"
        )
    from jaxcnn.training.console import Console
    from jaxcnn.training.load_run import loaded
    from jaxcnn.training.signals import StopSignal
    from jaxcnn.training.stored_run import find_run

    console, began = Console(), time.monotonic()
    with StopSignal("leaving after this step") as stop_signal:

        def progress(text: str) -> None:
            stop_signal.check()
            console.progress(text, last=True)

        net = loaded(find_run(options.run, weights_choices(options)), options.step)
        origin = net.origin or {"run": options.run.name, "step": net.step}
        if getattr(net.net, "auxiliary", False):
            console.line("without auxiliary heads, which inference does not need")
        export = _export_weights if options.format in WEIGHTS else _export_program
        facts = export(net, options, origin, console, progress)
    size = sum(map(file_size, files_in(options.out)))
    record = {"path": str(options.out), "format": options.format, **facts, "bytes": size}
    seconds = time.monotonic() - began
    text = f"{options.out}: {options.format}, {size:,} bytes, in {seconds:.1f} s"
    return Output(record, text)


def _export_program(
    loaded: Loaded,
    options: argparse.Namespace,
    origin: dict[str, Any],
    console: Console,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    from jaxcnn.weights.exports import export_program

    program = _program(loaded, options)
    height, width = program.size
    console.line(f"{_title(loaded, options)}: {program.what} of {height} x {width} images")
    if loaded.net.dtype != program.net.dtype:
        console.line(f"it computes in float32, where the run computes in {loaded.net.dtype}")
    reference = _reference(loaded, program)
    found = export_program(program, options.format, options.out, reference, origin, progress)
    console.line(
        f"ran on 2 images: differs from jaxcnn by {found.deviations:.1e} of the standard deviation"
    )
    return {"what": program.what, "difference": found.deviations}


def _export_weights(
    loaded: Loaded,
    options: argparse.Namespace,
    origin: dict[str, Any],
    console: Console,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    from jaxcnn.weights.weight_exports import export_weights, weights_of

    params, net = loaded.variables["params"], loaded.net
    weights = weights_of(net, params, loaded.mean, loaded.classes, origin)
    console.line(f"{_title(loaded, options)}: weights")
    notes = export_weights(weights, options.format, options.out, progress)
    for note in (*notes, "read again: equal bit by bit"):
        console.line(note)
    return {"what": "weights", "notes": notes}


def _title(loaded: Loaded, options: argparse.Namespace) -> str:
    return f"{options.run.name}, {'imported' if loaded.origin else f'step {loaded.step}'}"


def _program(loaded: Loaded, options: argparse.Namespace) -> Program:
    from jaxcnn.weights.programs.program import make_program

    dense = options.dense
    if dense == TWICE:
        dense = (2 * loaded.net.image_size, 2 * loaded.net.image_size)
    params, what = loaded.variables["params"], {"features": options.features, "dense": dense}
    try:
        return make_program(loaded.net, params, loaded.mean, loaded.classes, **what)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _reference(loaded: Loaded, program: Program) -> Any:
    """The outputs of images by jaxcnn itself, in the fast forms of this machine."""
    import jax

    own = dataclasses.replace(loaded, net=program.net)

    def run(images: np.ndarray) -> dict[str, Any]:
        if program.features:
            return {"features": own.features(images, program.features)}
        if program.dense:
            return jax.jit(program.__call__)(program.weights, images)
        return {"probabilities": own.probabilities(images)}

    return run
