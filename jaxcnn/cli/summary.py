"""Print a net's layers, parameters and multiply-adds, compared with the paper's figures.

NAME is a net, or a column of VGG such as vgg_a_lrn. Every field of the net is an option.

example: jaxcnn summary vgg_e --width=0.5
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from jaxcnn.cli.arguments import Output, add_json
from jaxcnn.cli.exit_codes import UsageError

KEPT = "nothing was computed"
# Simonyan and Zisserman 2014, section 2.3, for C input and output channels.
STACK_NOTE = (
    "three 3x3 layers of C channels hold 27C² weights and see 7x7; one 7x7 layer holds 49C², "
    f"{49 / 27 - 1:.0%} more"
)


def _names() -> dict[str, dict[str, Any]]:
    """The names that may be typed, each with the fields that it sets."""
    from jaxcnn.models import NETS
    from jaxcnn.models.vgg import COLUMNS

    columns = {f"vgg_{c.lower().replace('-', '_')}": {"column": c} for c in COLUMNS}
    return {**{name: {} for name in NETS}, **columns}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A flag for each field of each net; the same field may belong to several nets."""
    from jaxcnn.models import NETS, net_fields

    names = _names()
    parser.add_argument("name", metavar="NAME", choices=[*names], help=", ".join(names))
    parser.add_argument("--detail", action="store_true", help="also the layers inside modules")
    add_json(parser)
    kinds: dict[str, set[Any]] = {}
    for net in NETS:
        for name, field in net_fields(net).items():
            kinds.setdefault(name, set()).add(field.type)
    for name, types in kinds.items():
        metavar = "|".join(sorted("true|false" if t is bool else t.__name__.upper() for t in types))
        parser.add_argument(f"--{name}", metavar=metavar, default=None)


def run(options: argparse.Namespace) -> Output:
    from jaxcnn.models.summary import summarise
    from jaxcnn.models.summary_text import format_table

    try:
        summary = summarise(_build(options))
    except ValueError as error:
        raise UsageError(error) from error
    record = dataclasses.asdict(summary)
    for row, values in zip(summary.rows, record["rows"], strict=True):
        values["training_only"] = row.training_only
    note = [STACK_NOTE] if options.name.startswith("vgg") else []
    return Output(record, "\n".join([format_table(summary, options.detail), *note]))


def _build(options: argparse.Namespace) -> Any:
    """The net that the command line describes.

    Raises:
        ValueError: a field is unknown to the net, or has a wrong value.
    """
    from jaxcnn.models import NETS, build, net_fields

    net = options.name if options.name in NETS else "vgg"
    fields, given = net_fields(net), _names()[options.name]
    for name in {name: None for net in NETS for name in net_fields(net)}:
        if (value := getattr(options, name)) is not None:
            kind = fields[name].type if name in fields else str
            given[name] = _converted(name, value, kind)
    return build(net, **given)


def _converted(field: str, text: str, kind: Any) -> Any:
    """The value of a flag, in the type that the field has in the chosen net."""
    try:
        return {"true": True, "false": False}[text] if kind is bool else kind(text)
    except (KeyError, ValueError):
        expected = "true or false" if kind is bool else kind.__name__
        raise ValueError(f"--{field} must be {expected}, got {text!r}") from None
