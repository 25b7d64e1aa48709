"""Prints a net's layers, parameters, multiply-adds and receptive fields beside the paper's figures.

python -m jaxcnn.cli.summary NAME [--detail] [--json] [--FIELD VALUE ...]

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
        prog="python -m jaxcnn.cli.summary",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("name", metavar="NAME", choices=list(names()), help=", ".join(names()))
    result.add_argument("--detail", action="store_true", help="also the layers inside modules")
    result.add_argument("--json", action="store_true", help="print JSON")
    kinds: dict[str, set[Any]] = {}
    for net in NETS:
        for name, field in net_fields(net).items():
            kinds.setdefault(name, set()).add(field.type)
    for name, types in kinds.items():
        metavar = "|".join(sorted("true|false" if t is bool else t.__name__.upper() for t in types))
        result.add_argument(f"--{name}", metavar=metavar, default=None)
    return result


def converted(field: str, text: str, kind: Any) -> Any:
    """The value of a flag, in the type that the field has in the chosen net.

    Raises:
        ValueError: it is not of that type.
    """
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError(f"--{field} must be true or false, got {text!r}")
        return text == "true"
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"--{field} must be {kind.__name__}, got {text!r}") from None


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
    known = net_fields(net_name)
    try:
        given = {
            field: converted(field, value, known[field].type) if field in known else value
            for field, value in given.items()
        }
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
