"""Print what a weights file is: format, net, source, what the net reads, and what does not fit.

The exit code is 1 if jaxcnn import cannot take the file as it is. Nothing in the file is run; only the first
layer is searched for values that are not finite. Files that are read: docs/weights.md.

example: jaxcnn inspect vgg16-397923af.pth
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
from jaxcnn.cli.exit_codes import EXIT_DONE, EXIT_ERROR
from jaxcnn.printable import shell_quote

KEPT = "nothing was written"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=path, help="weights file of another program, or of jaxcnn")
    add_weights_choices(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> Output:
    from jaxcnn.weights.inspection import inspect_weights

    found = inspect_weights(options.file, weights_choices(options))
    rows = [(f"  {name}", text) for name, text in found.facts.items()]
    lines = [str(options.file), align(rows)]
    if found.problem:
        lines.append(f"cannot be imported as it is: it {found.problem}")
    else:
        said = [f"--{name}={getattr(options, name)}" for name in ("source", "net", "classes")]
        said = [text for text in said if not text.endswith(("=", "=None"))]
        said += ["--drop_background"] if options.drop_background else []
        command = " ".join(
            ["jaxcnn import", *map(shell_quote, [str(options.file), *said]), "--out=DIR"]
        )
        lines.append(f"next: {command}")
    record = {"file": str(options.file), **found.facts, "problem": found.problem}
    return Output(record, "\n".join(lines), EXIT_ERROR if found.problem else EXIT_DONE)
