"""Write a weights file of another program as a folder that everything takes that takes a run.

The folder holds weights.safetensors, config.json, classes.txt and origin.json, which says where the weights
come from and what was done to them. The file's content shows its program and its source; of weights that are
not recognised, say the source with --source. Files that are read, and what each net reads: docs/weights.md.

example: jaxcnn import VGG_ILSVRC_16_layers.caffemodel --out=runs/oxford_vgg16
"""

from __future__ import annotations

import argparse

from jaxcnn.cli.arguments import (
    Output,
    add_json,
    add_weights_choices,
    align,
    path,
    weights_choices,
)
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
    from jaxcnn.training.imported_run import NO_DATA, imported_config, write_imported
    from jaxcnn.weights import read_weights
    from jaxcnn.weights.choices import net_text

    console = Console()
    weights = read_weights(options.file, weights_choices(options))
    for warning in weights.origin.get("warnings", ()):
        console.line(f"warning: {warning}")
    write_imported(options.out, weights)
    data = imported_config(weights)["data"]["source"]
    data = "folder:PATH" if data == NO_DATA else data
    protocol = "dense" if weights.model["name"] == "vgg" else "centre"
    quoted = shell_quote(str(options.out))
    origin, dropped = weights.origin, weights.origin["dropped"]
    mean = ", ".join(f"{value:g}" for value in weights.mean.reshape(-1, 3).mean(0))
    image = ", a mean image" if weights.mean.ndim == 3 else ""
    facts = [
        ("net", net_text(weights.model)),
        ("licence", origin["licence"]),
        ("read", origin["reads"]),
        ("mean", f"RGB ({mean}){image}, kept with the weights"),
        ("classes", origin["classes"]),
        *(("done", step) for step in origin["transformations"]),
    ]
    if dropped:
        reasons = "; ".join(sorted({*dropped.values()}))
        facts.append(("left out", f"{len(dropped)} arrays: {reasons}"))
    rows = [
        f"{options.out}: {origin['title']}, known by {origin['known_by']}",
        align([(f"  {name}", text) for name, text in facts]),
        f"next: jaxcnn evaluate {quoted} --protocol={protocol} --data={data}",
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
