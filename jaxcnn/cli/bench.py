"""Measure speed, compared with its bounds and with other programs.

kinds:
  input    JPEGs to augmented uint8 batches: images per second, compared with bare decoding
  step     training and inference steps of the nets, compared with this machine's matrix products
  eval     evaluations by the papers' protocols, compared with the net's forward pass
  loop     overhead of the train loop over its compiled step, and waits for data
  resume   seconds from the start of a program to its first step, by phase
  table    saved measurements as a Markdown table and a plot

jaxcnn bench KIND --help describes a kind. --peer needs other programs: pip install -e '.[bench]'

example: jaxcnn bench step --net=vgg_d --batch=8
"""

from __future__ import annotations

import argparse
import importlib
import types
from collections.abc import Iterator
from typing import Any

from jaxcnn.cli.arguments import Output, add_json, at_least

KEPT = "nothing was written"
# Modules of jaxcnn.benchmarks, each with add_arguments(parser). measure(options) yields measurements.
SUBCOMMANDS = {
    "input": "input_speed",
    "step": "step_speed",
    "eval": "eval_speed",
    "loop": "loop_speed",
    "resume": "start_speed",
    "table": "table",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", metavar="KIND", choices=[*SUBCOMMANDS], help=", ".join(SUBCOMMANDS))


def subcommand(name: str) -> Any:
    """The command `bench NAME`, in the form of a module of this package."""
    kind = importlib.import_module(f"jaxcnn.benchmarks.{SUBCOMMANDS[name]}")
    source = " --source=folder:PATH" if name in ("input", "eval") else ""
    arguments = " rows.jsonl" if name == "table" else f"{source} --json"

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        kind.add_arguments(parser)
        if name != "table":
            help_text = "timed repeats; the result is their median (%(default)s)"
            parser.add_argument("--repeats", type=at_least(1), default=5, help=help_text)
            add_json(parser, "print one JSON object per row and line")

    def run(options: argparse.Namespace) -> Iterator[Output]:
        from jaxcnn.benchmarks.measurement import format_measurements

        rows = []
        for row in kind.measure(options):
            rows.append(row)
            yield Output(row.record())
        yield Output(text=format_measurements(rows))

    return types.SimpleNamespace(
        __doc__=f"{kind.__doc__}\nexample: jaxcnn bench {name}{arguments}",
        add_arguments=add_arguments,
        run=(lambda options: Output(text=kind.make_table(options))) if name == "table" else run,
        KEPT=KEPT,
    )
