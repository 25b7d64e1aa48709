"""jaxcnn summary: layers, parameters, multiply-adds and receptive fields next to the paper's figures."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from jaxcnn.cli.arguments import add_json, make_parser
from jaxcnn.cli.exit_codes import exit_code
from jaxcnn.config import ConfigError
from jaxcnn.models import NETS, build, net_fields
from jaxcnn.models.summary import Summary, format_table, summarise
from jaxcnn.models.vgg import COLUMNS

# Simonyan and Zisserman 2014, section 2.3, for C input and output channels.
STACK_NOTE = (
    "three 3x3 layers of C channels hold 27C² weights and see 7x7; one 7x7 layer holds 49C², "
    f"{49 / 27 - 1:.0%} more"
)


def names() -> dict[str, dict[str, Any]]:
    """The names that may be typed, each with the fields that it sets."""
    columns = {f"vgg_{c.lower().replace('-', '_')}": {"column": c} for c in COLUMNS}
    return {**{name: {} for name in NETS}, **columns}


def parser() -> argparse.ArgumentParser:
    """A flag for each field of each net; the same field may belong to several nets."""
    result = make_parser(
        "summary",
        notes="NAME is a net, or a column of VGG such as vgg_a_lrn. Every field of the net is an option.",
        example="jaxcnn summary vgg_e --width=0.5",
    )
    result.add_argument("name", metavar="NAME", choices=list(names()), help=", ".join(names()))
    result.add_argument("--detail", action="store_true", help="also the layers inside modules")
    add_json(result)
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


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)

    def work() -> None:
        try:
            net = _build(options)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        summary = summarise(net)
        if options.json:
            print(as_json(summary))
            return
        print(format_table(summary, options.detail))
        if options.name.startswith("vgg"):
            print(STACK_NOTE)

    return exit_code(work, kept="nothing was computed")


def _build(options: argparse.Namespace) -> Any:
    """The net that the command line describes.

    Raises:
        ValueError: a field is unknown to the net, or has a wrong value.
    """
    net = options.name if options.name in NETS else "vgg"
    fields = net_fields(net)
    given = {
        field: converted(field, value, fields[field].type) if field in fields else value
        for field, value in vars(options).items()
        if value is not None and field not in ("name", "detail", "json")
    }
    return build(net, **{**names()[options.name], **given})
