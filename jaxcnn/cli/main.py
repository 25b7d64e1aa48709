"""The program `jaxcnn`: picks a command and imports only what that command needs."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

from jaxcnn.cli.arguments import COMMANDS
from jaxcnn.malloc_tuning import start_again_with_large_pages

# Commands whose steps allocate gigabytes on a CPU.
LARGE = ("train", "chain", "compare", "evaluate", "table", "bench")


def main(arguments: Sequence[str]) -> int:
    """Runs `jaxcnn ARGUMENTS` and returns its exit code."""
    parser = _make_parser()
    # Everything from the command's name on belongs to the command.
    options = parser.parse_args(arguments[:1])
    command = importlib.import_module(f"jaxcnn.cli.{options.command}")
    return command.main(arguments[1:])


def program(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script, of `python -m jaxcnn` and of main.py."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in LARGE and not {"-h", "--help"} & {*arguments}:
        start_again_with_large_pages()
    sys.exit(main(arguments))


def _make_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="jaxcnn",
        usage="jaxcnn [--help] [--version] COMMAND ...",
        description="AlexNet, VGG and GoogLeNet: train, evaluate and compare them.",
        epilog=f"commands:\n{rows}\n\n"
        "jaxcnn COMMAND --help describes a command. Exit codes: 0 done, 1 error, 2 usage or config error,\n"
        "3 training diverged, 130 interrupted by Ctrl-C, 143 stopped by a signal with the state saved.\n\n"
        "example: jaxcnn train --config=quickstart",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    version = f"%(prog)s {importlib.metadata.version('jaxcnn')}"
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument("command", metavar="COMMAND", choices=tuple(COMMANDS))
    return parser
