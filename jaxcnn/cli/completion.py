"""jaxcnn completion: a shell completion script, made from the parsers of all commands."""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Sequence

from jaxcnn.cli.arguments import COMMANDS, make_parser

BASH = """_jaxcnn() {
  local word="${COMP_WORDS[COMP_CWORD]}" words=""
  if [ "$COMP_CWORD" = 1 ]; then
    words=%(commands)s
  else
    case "${COMP_WORDS[1]}" in
%(cases)s
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -o default -F _jaxcnn jaxcnn
"""


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    words = {name: _words(name) for name in COMMANDS}
    if options.shell == "fish":
        print("\n".join(_fish(words)))
        return 0
    cases = "\n".join(f"      {n}) words={shlex.quote(' '.join(w))} ;;" for n, w in words.items())
    script = BASH % {"commands": shlex.quote(" ".join(COMMANDS)), "cases": cases}
    zsh = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"
    print((zsh if options.shell == "zsh" else "") + script, end="")
    return 0


def _words(command: str) -> list[str]:
    """Options of a command, with `=` where they take a value, and choices of its positional arguments."""
    module = importlib.import_module(f"jaxcnn.cli.{command}")
    words: list[str] = []
    for action in module.parser()._actions:
        flags = [flag for flag in action.option_strings if flag.startswith("--")]
        words += [flag if action.nargs == 0 else f"{flag}=" for flag in flags]
        if not flags:
            words += [str(choice) for choice in action.choices or ()]
            words += _configs() if action.dest == "config" else []
    return words


def _configs() -> list[str]:
    from jaxcnn.config import CONFIGS

    return sorted(path.stem for path in CONFIGS.glob("*.py"))


def _fish(words: dict[str, list[str]]) -> list[str]:
    lines = [
        f"complete -c jaxcnn -n __fish_use_subcommand -a {name} -d {shlex.quote(text)}"
        for name, text in COMMANDS.items()
    ]
    for name, choices in words.items():
        lines.append(
            f"complete -c jaxcnn -n '__fish_seen_subcommand_from {name}' -a {shlex.quote(' '.join(choices))}"
        )
    return lines


def parser() -> argparse.ArgumentParser:
    result = make_parser(
        "completion",
        notes="Put the line of the example into ~/.bashrc; zsh: the same with zsh in ~/.zshrc;\n"
        "fish: jaxcnn completion fish | source",
        example='eval "$(jaxcnn completion bash)"',
    )
    result.add_argument("shell", choices=("bash", "zsh", "fish"))
    return result
