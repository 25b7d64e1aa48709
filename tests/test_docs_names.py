"""Paths, names, commands, options and config keys in the README and docs/ exist."""

import pkgutil
import re
import shlex
import string
from pathlib import Path

import pytest

from jaxcnn.cli.main import COMMANDS, command_parser, find
from jaxcnn.config import ConfigError, find_config, parameters
from jaxcnn.training import schema

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
# A path on a page starts with one of these folders, relative to the repository or to one of the BASES.
BASES = (ROOT, ROOT / "jaxcnn", DOCS, ROOT / "tests")
FOLDERS = {"jaxcnn", "configs", "docs", "launch", "results", "tests"} | {
    folder.name for base in BASES[1:] for folder in base.iterdir() if folder.is_dir()
}
PATH = re.compile(
    r"(?<![\w./:-])((?:[\w-]+/)+(?:[\w-]+\.(?:py|md|tsv|sh|sbatch|yaml|jsonl?|png|jpg|sha256))?)(?![\w])"
)
# docs/extend.md tells the reader to make this file.
TO_BE_MADE = {"jaxcnn/models/small_net.py"}


@each_page
def test_paths_exist(page):
    found = {path for path in PATH.findall(page.read_text()) if path.split("/")[0] in FOLDERS}
    missing = {path for path in found if not any((base / path).exists() for base in BASES)}
    assert missing <= TO_BE_MADE


@each_page
def test_named_tests_exist(page):
    for path, name in re.findall(r"([\w/]+\.py)::(\w+)", page.read_text()):
        assert f"def {name}(" in (ROOT / "tests" / path.removeprefix("tests/")).read_text()


@each_page
def test_names_in_jaxcnn_exist(page):
    for name in re.findall(r"\bjaxcnn(?:\.[a-zA-Z_]\w*)+", page.read_text()):
        assert pkgutil.resolve_name(name) is not None


@each_page
def test_make_targets_exist(page):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    named = re.findall(r"`make (?:\w+=\S+ )?([\w-]+)", page.read_text())
    assert set(named) <= {*targets}


def typed_commands(page):
    """(command, arguments) of each jaxcnn command in the code blocks and inline code of a page."""
    text = page.read_text().replace("\\\n", " ")
    code = [
        line
        for block in re.findall(r"```(?:bash|text)\n(.*?)```", text, re.S)
        for line in block.splitlines()
    ]
    code += re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    variables = {}
    for line in code:
        variables |= re.findall(r'^([A-Z]+)="(.*)"$', line)
        program = re.search(
            r"(?:^|[ /(])(python main\.py|launch/\S+\.(?:sbatch|sh)|jaxcnn [a-z]+)(?= |$)(.*)", line
        )
        if program is None:
            continue
        rest = string.Template(program[2]).safe_substitute(variables)
        rest = re.split(r" [>|]", rest)[0]
        if line[: program.start(1)].endswith("$("):
            rest = rest.partition(")")[0]
        command = (
            program[1].removeprefix("jaxcnn ") if program[1].startswith("jaxcnn ") else "train"
        )
        yield command, shlex.split(rest, comments=True)


def options_of(command, arguments):
    """The options that the parser of `jaxcnn COMMAND` knows."""
    parser = command_parser(*find(command, arguments)[:2])
    return {flag for action in parser._actions for flag in action.option_strings}


@each_page
def test_commands_have_the_options_of_their_parsers(page):
    for command, arguments in typed_commands(page):
        assert command in COMMANDS, f"jaxcnn {command}"
        flags = {
            a.partition("=")[0]
            for a in arguments
            if a.startswith("--") and "." not in a.partition("=")[0]
        }
        assert flags <= options_of(command, arguments), f"jaxcnn {command} {shlex.join(arguments)}"


@each_page
def test_commands_override_keys_that_exist_with_values_that_are_valid(page):
    for command, arguments in typed_commands(page):
        if command not in WITH_CONFIG:
            continue
        names = [a.removeprefix("--config=") for a in arguments if not a.startswith("--config.")]
        overrides = [a.removeprefix("--config.") for a in arguments if a.startswith("--config.")]
        if command == "chain":  # --STAGE.KEY=VALUE
            overrides += [
                a.partition(".")[2] for a in arguments if re.match(r"--[a-z]\w*(?<!config)\.", a)
            ]
        try:
            config = next(name for name in names if is_config(name))
        except StopIteration:
            continue
        overrides = [
            text for text in overrides if not re.search(r"=[A-Z_]+$", text)
        ]  # a placeholder
        schema.read_resolved(config, overrides)


WITH_CONFIG = ("train", "plan", "chain", "check", "views", "statistics", "compare")


def is_config(name):
    try:
        return bool(find_config(name))
    except ConfigError:
        return False


def known_keys():
    for section, callables in schema.SECTIONS.items():
        for one in callables.values() if isinstance(callables, dict) else [callables]:
            yield from (f"{section}.{key}" for key in ("name", *parameters(one)))


@each_page
def test_config_keys_exist(page):
    known = set(known_keys())
    sections = "|".join(schema.SECTIONS)
    text = page.read_text()
    named = re.findall(rf"(?:`|--config\.)((?:{sections})\.\w+)(?=[=`\\])", text)
    assert set(named) <= known | {"augment.erase"}  # docs/extend.md adds it
