"""The program `jaxcnn`: parses the arguments of a command, runs it, and prints its results."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from jaxcnn.cli.arguments import Output
from jaxcnn.cli.exit_codes import EXIT_DONE, EXIT_ERROR, end_process, exit_code, fail
from jaxcnn.jax_settings import pin_environment
from jaxcnn.limits import LimitError, raise_limits
from jaxcnn.malloc_tuning import start_again_with_large_pages
from jaxcnn.printable import PrintableFormatter, say, shell_join
from jaxcnn.streams import SafeStream, protect_standard_streams, safe

# In the order of use; each is a module of this package.
COMMANDS = (
    "prepare", "statistics", "check", "plan", "summary", "views", "train", "chain", "compare",
    "inspect", "import", "evaluate", "fuse", "table", "predict", "figures", "export", "bench", "completion",
)  # fmt: skip
# Commands whose steps allocate gigabytes on a CPU.
LARGE = ("train", "chain", "compare", "evaluate", "table", "bench")
# Commands whose results are in files: what they print may be lost.
FILES = (
    "prepare", "statistics", "views", "train", "chain", "compare", "evaluate", "figures", "export",
    "import",
)  # fmt: skip
# Commands that have nothing left to do when nobody reads their output any more.
STREAMED = ("predict", "bench")
EPILOG = """

jaxcnn COMMAND --help describes a command. Exit codes: 0 done, 1 error, 2 usage or config error,
3 training diverged, 130 interrupted by Ctrl-C, 143 stopped by a signal with the state saved.

example: jaxcnn train --config=quickstart"""


def program(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script, of `python -m jaxcnn` and of main.py."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in LARGE and not {"-h", "--help"} & {*arguments}:
        start_again_with_large_pages()
    protect_standard_streams()
    if not {"-h", "--help", "--version", "completion"} & {*arguments}:
        try:
            raise_limits()
        except LimitError as error:
            end_process(fail("error", error, EXIT_ERROR))
    for line in pin_environment(os.environ):
        say(line, sys.stderr)
    _log_printable()
    try:
        code = main(arguments)
    except SystemExit as end:  # argparse printed help, or what is wrong
        parsed = end.code
        code = exit_code(lambda: _written(parsed, safe(sys.stdout)), kept="")
    end_process(code)


def _log_printable() -> None:
    """Makes warnings of jaxcnn printable: the names in them may hold what a terminal would obey."""
    handler, logger = logging.StreamHandler(), logging.getLogger("jaxcnn")
    handler.setFormatter(PrintableFormatter("%(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False  # libraries give the root logger handlers of their own


def main(arguments: Sequence[str]) -> int:
    """Runs `jaxcnn ARGUMENTS` and returns its exit code.

    Raises:
        SystemExit: --help was given, or the arguments cannot be parsed.
    """
    if not arguments or arguments[0] not in COMMANDS:
        _program_parser().parse_args(arguments[:1])
    # Everything after the command's name belongs to the command.
    command, module, rest = find(arguments[0], arguments[1:])
    options = _parse(command_parser(command, module), rest)
    options.command_line = ["jaxcnn", *arguments]

    def work() -> int:
        stdout, as_json, code = safe(sys.stdout), getattr(options, "json", False), EXIT_DONE
        with contextlib.redirect_stdout(sys.stderr if as_json else stdout):
            outputs = module.run(options)
            for output in [outputs] if isinstance(outputs, Output) else outputs:
                code = max(code, output.code)
                if as_json and output.record is not None:
                    print(json.dumps(output.record), file=stdout, flush=True)
                elif output.text:
                    say(output.text)
                if stdout.lost_reader() and arguments[0] in STREAMED:
                    break
        return _written(code, stdout) if as_json or arguments[0] not in FILES else code

    return exit_code(work, kept=module.KEPT.format(command=shell_join(options.command_line)))


def _written(code: Any, stdout: SafeStream) -> Any:
    """`code`, after everything is on `stdout`, which is the result. Raises OSError if it cannot be written,
    except if its reader has read enough."""
    stdout.flush()
    if stdout.error is not None and not stdout.lost_reader():
        raise OSError(f"the result cannot be written to standard output ({stdout.error})")
    return code


def find(command: str, arguments: Sequence[str] = ()) -> tuple[str, Any, Sequence[str]]:
    """(name, module, remaining arguments) of a command or of the subcommand that `arguments` begin with."""
    module: Any = importlib.import_module(f"jaxcnn.cli.{command}")
    if arguments and arguments[0] in getattr(module, "SUBCOMMANDS", ()):
        return f"{command} {arguments[0]}", module.subcommand(arguments[0]), arguments[1:]
    return command, module, arguments


def command_parser(command: str, module: Any) -> argparse.ArgumentParser:
    """The parser of a command; its help is the module's docstring with usage and arguments in it."""
    first = sentence(module)
    parser = argparse.ArgumentParser(
        prog=f"jaxcnn {command}",
        description=first,
        epilog=(module.__doc__ or "").removeprefix(first).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def sentence(module: Any) -> str:
    return (module.__doc__ or "").partition("\n\n")[0]


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options. A command with `overrides` also takes them as --config.KEY=VALUE, wherever they are typed;
    a chain takes --STAGE.KEY=VALUE too. Where SECTION.KEY=VALUE is an argument, it may stand anywhere too,
    which argparse does not allow."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    dotted = [argument for argument in arguments[:end] if re.match(r"--[\w-]+\.", argument)]
    takes = any(action.dest == "overrides" for action in parser._actions)
    bare = [a for a in arguments[:end] if takes and re.match(r"[a-z_]+\.[a-z_]+=", a)]
    others = [a for a in arguments[:end] if a not in (*dotted, *bare)]
    options = parser.parse_args([*others, *arguments[end:]])
    if bare:
        options.overrides = [*options.overrides, *bare]
    prefix = getattr(options, "override_prefix", "--config.")
    for text in dotted:
        if not hasattr(options, "overrides") or not text.startswith(prefix):
            parser.error(f"unrecognized arguments: {text}")
        if "=" not in text:
            parser.error(f"{text} needs a value: {text}=VALUE")
    if dotted:
        options.overrides = [*options.overrides, *(text.removeprefix(prefix) for text in dotted)]
    return options


def _program_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    rows = (f"  {name:<{width}}  {sentence(find(name)[1])}" for name in COMMANDS)
    parser = argparse.ArgumentParser(
        prog="jaxcnn",
        usage="jaxcnn [--help] [--version] COMMAND ...",
        description="AlexNet, VGG and GoogLeNet: train, evaluate and compare them.",
        epilog="commands:\n" + "\n".join(rows) + EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    version = f"%(prog)s {importlib.metadata.version('jaxcnn')}"
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS)
    return parser
