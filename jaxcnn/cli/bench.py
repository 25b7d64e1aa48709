"""Measures jaxcnn beside its bounds and its peers: python -m jaxcnn.cli.bench WHAT [options].

  input    JPEGs to augmented uint8 batches: images a second, against bare decoding
  step     train and inference steps of the nets, against this machine's matrix products
  eval     evaluations by the papers' protocols, against the nets' own forward pass
  loop     the train loop against its compiled step, and waits for data
  resume   seconds from the start of a program to its first step, and where they go

Each says its own options: python -m jaxcnn.cli.bench step --help. A peer is an extra:
pip install -e '.[bench]'. Exit codes: 0 done, 1 error, 2 usage.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from jaxcnn.benchmarks.measurement import Measurement, text
from jaxcnn.cli.exit_codes import outcome
from jaxcnn.malloc_tuning import start_again_with_large_pages

# Modules of jaxcnn.benchmarks, each with add_arguments(parser) and measure(options), which yields rows.
KINDS = {
    "input": "input_speed",
    "step": "step_speed",
    "eval": "eval_speed",
    "loop": "loop_speed",
    "resume": "start_speed",
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jaxcnn.cli.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("what", choices=tuple(KINDS))
    if not arguments or arguments[0] not in KINDS:
        parser.parse_args(arguments)
    kind = importlib.import_module(f"jaxcnn.benchmarks.{KINDS[arguments[0]]}")
    parser = argparse.ArgumentParser(
        prog=f"python -m jaxcnn.cli.bench {arguments[0]}",
        description=kind.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    kind.add_arguments(parser)
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed repeats; the median counts (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, one a row")
    options = parser.parse_args(arguments[1:])
    if options.repeats < 1:
        parser.error(f"--repeats={options.repeats}: expected 1 or more")

    def work() -> None:
        rows: list[Measurement] = []
        for row in kind.measure(options):
            rows.append(row)
            if options.json:
                print(row.line(), flush=True)
        if not options.json:
            print(text(rows))

    return outcome(work, "nothing was written")


if __name__ == "__main__":
    start_again_with_large_pages()
    sys.exit(main(sys.argv[1:]))
