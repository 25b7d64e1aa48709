"""Write a weights file of another program as a folder that everything takes that takes a run.

The folder holds weights.safetensors, config.json, classes.txt and origin.json, which says where the weights
come from and what was done to them. The file's content shows its program and its source; of weights that are
not recognised, say the source with --source. Files that are read, and what each net reads: docs/weights.md.

example: jaxcnn import VGG_ILSVRC_16_layers.caffemodel --out=runs/oxford_vgg16
"""

from __future__ import annotations

import argparse

from jaxcnn.cli.arguments import Output, add_json, add_weights_choices, path, weights_choices
from jaxcnn.printable import shell_quote

KEPT = "nothing was written"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=path, help="weights file")
    add("--out", type=path, required=True, help="folder to write; it must not exist")
    add_weights_choices(parser)
    help_text = "R,G,B: another mean to subtract, if it is near enough to the weights' own"
    add("--mean", type=_three, default=None, help=help_text)
    help_text = "Caffe's mean image, .binaryproto or .npy, to subtract instead of its channel means"
    add("--mean_image", default="", help=help_text)
    add_json(parser)


def run(options: argparse.Namespace) -> Output:
    from jaxcnn.training.console import Console
    from jaxcnn.training.imported_run import write_imported
    from jaxcnn.weights import read_weights

    console = Console()
    weights = read_weights(options.file, weights_choices(options))
    for warning in weights.origin.get("warnings", ()):
        console.line(f"warning: {warning}")
    write_imported(options.out, weights)
    quoted = shell_quote(str(options.out))
    rows = [
        f"{options.out}: {weights.origin['title']}, known by {weights.origin['known_by']}",
        *(f"  {step}" for step in weights.origin["transformations"]),
        f"next: jaxcnn evaluate {quoted} --protocol=dense --data=tfds:imagenet2012",
    ]
    record = {"out": str(options.out), "model": dict(weights.model), "origin": dict(weights.origin)}
    return Output(record, "\n".join(rows))


def _three(text: str) -> tuple[float, float, float]:
    """A type of argument: three values in 0..255."""
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        problem = f"expected three values such as 123.68,116.779,103.939; got {text!r}"
        raise argparse.ArgumentTypeError(problem) from None
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise argparse.ArgumentTypeError(f"values must be in 0..255, got {text!r}")
    return red, green, blue
