"""Prints a net's layers, parameters, multiply-adds and receptive fields beside the paper's figures.

python -m jaxcnn.tools.summary NAME [--detail] [--json] [--FIELD VALUE ...]

NAME is alexnet, vgg, googlenet, cuda_convnet, or a column of VGG such as vgg_a_lrn or vgg_e. FIELD is
any field of the net: --width 0.5, --column E, --stem separable, --towers 1.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from jaxcnn.models import NETS, build, net_fields
from jaxcnn.models.summary import Summary, format_table, summarise
from jaxcnn.models.vgg import COLUMNS

# Simonyan and Zisserman 2014, section 2.3, for maps of C channels in and out.
STACK_NOTE = (
    "three 3x3 layers of C channels hold 27C² weights and see 7x7; one 7x7 layer holds 49C², "
    f"{49 / 27 - 1:.0%} more"
)


def names() -> dict[str, dict[str, Any]]:
    """The names that may be typed, each with the fields that it stands for."""
    columns = {f"vgg_{c.lower().replace('-', '_')}": {"column": c} for c in COLUMNS}
    return {**{name: {} for name in NETS}, **columns}


def parser() -> argparse.ArgumentParser:
    """A flag for each field of each net; the same field may belong to several nets."""
    result = argparse.ArgumentParser(
        prog="python -m jaxcnn.tools.summary",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("name", metavar="NAME", choices=list(names()), help=", ".join(names()))
    result.add_argument("--detail", action="store_true", help="also the layers inside modules")
    result.add_argument("--json", action="store_true", help="print JSON")
    kinds = {f: field.type for net in NETS for f, field in net_fields(net).items()}
    for field, kind in kinds.items():
        convert = truth if kind is bool else kind
        metavar = "true|false" if kind is bool else getattr(kind, "__name__", "VALUE").upper()
        result.add_argument(f"--{field}", type=convert, metavar=metavar, default=None)
    return result


def truth(text: str) -> bool:
    """True or False from the text of a flag."""
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"


def as_json(summary: Summary) -> str:
    """The summary as JSON: the dataclasses' fields, and `training_only` for each row."""
    tree = dataclasses.asdict(summary)
    for row, values in zip(summary.rows, tree["rows"], strict=True):
        values["training_only"] = row.training_only
    return json.dumps(tree, indent=2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the summary; returns the exit code, 2 for a usage error."""
    flags = parser().parse_args(arguments)
    fixed = names()[flags.name]
    given = {
        field: value
        for field, value in vars(flags).items()
        if value is not None and field not in ("name", "detail", "json")
    }
    net_name = flags.name if flags.name in NETS else "vgg"
    try:
        net = build(net_name, **{**fixed, **given})
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    summary = summarise(net)
    if flags.json:
        print(as_json(summary))
        return 0
    print(format_table(summary, flags.detail))
    if net_name == "vgg":
        print(STACK_NOTE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
