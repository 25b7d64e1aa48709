"""jaxcnn bench: measures jaxcnn next to its bounds and to other programs."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from types import ModuleType

from jaxcnn.cli.arguments import add_json, at_least, make_parser
from jaxcnn.cli.exit_codes import exit_code

# Modules of jaxcnn.benchmarks, each with add_arguments(parser). measure(options) yields measurements.
KINDS = {
    "input": "input_speed",
    "step": "step_speed",
    "eval": "eval_speed",
    "loop": "loop_speed",
    "resume": "start_speed",
    "table": "table",
}
NOTES = """kinds:
  input    JPEGs to augmented uint8 batches: images per second, compared with bare decoding
  step     training and inference steps of the nets, compared with this machine's matrix products
  eval     evaluations by the papers' protocols, compared with the net's forward pass
  loop     overhead of the train loop over its compiled step, and waits for data
  resume   seconds from the start of a program to its first step, by phase
  table    saved measurements as a Markdown table and a plot

jaxcnn bench KIND --help describes a kind. --peer needs other programs: pip install -e '.[bench]'"""


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] not in KINDS:
        parser().parse_args(arguments)
    name = arguments[0]
    kind = importlib.import_module(f"jaxcnn.benchmarks.{KINDS[name]}")
    options = _kind_parser(name, kind).parse_args(arguments[1:])

    def work() -> None:
        if name == "table":
            return kind.write(options)
        from jaxcnn.benchmarks.measurement import format_measurements

        rows = []
        for row in kind.measure(options):
            rows.append(row)
            if options.json:
                print(row.line(), flush=True)
        if not options.json:
            print(format_measurements(rows))
        return None

    return exit_code(work, kept="nothing was written")


def parser() -> argparse.ArgumentParser:
    result = make_parser("bench", notes=NOTES, example="jaxcnn bench step --net=vgg_d --batch=8")
    result.add_argument("kind", metavar="KIND", choices=tuple(KINDS), help=", ".join(KINDS))
    return result


def _kind_parser(name: str, kind: ModuleType) -> argparse.ArgumentParser:
    source = " --source=folder:PATH" if name in ("input", "eval") else ""
    example = "table rows.jsonl" if name == "table" else f"{name}{source} --json"
    result = make_parser(f"bench {name}", example=f"jaxcnn bench {example}")
    result.description = kind.__doc__
    kind.add_arguments(result)
    if name != "table":
        result.add_argument(
            "--repeats",
            type=at_least(1),
            default=5,
            help="timed repeats; the result is their median (%(default)s)",
        )
        add_json(result, "print one JSON object per row and line")
    return result
