"""Print a shell completion script.

Put the line of the example into ~/.bashrc; zsh: the same with zsh in ~/.zshrc;
fish: jaxcnn completion fish | source

example: eval "$(jaxcnn completion bash)"
"""

from __future__ import annotations

import argparse
import shlex

from jaxcnn.cli.arguments import Output

KEPT = "nothing was printed"
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
  [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null  # zsh has none
}
complete -o default -F _jaxcnn jaxcnn"""
ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(options: argparse.Namespace) -> Output:
    from jaxcnn.cli.main import COMMANDS

    words = {name: _words(name) for name in COMMANDS}
    if options.shell == "fish":
        return Output(text="\n".join(_fish(words)))
    cases = "\n".join(f"      {n}) words={shlex.quote(' '.join(w))} ;;" for n, w in words.items())
    script = BASH % {"commands": shlex.quote(" ".join(COMMANDS)), "cases": cases}
    return Output(text=f"{ZSH if options.shell == 'zsh' else ''}{script}")


def _words(command: str) -> list[str]:
    """Options of a command, with `=` where they take a value, and choices of its positional arguments."""
    from jaxcnn.cli.main import command_parser, find
    from jaxcnn.config import CONFIGS

    words: list[str] = []
    for action in command_parser(*find(command)[:2])._actions:
        flags = [flag for flag in action.option_strings if flag.startswith("--")]
        words += [flag if action.nargs == 0 else f"{flag}=" for flag in flags]
        if not flags:
            words += [str(choice) for choice in action.choices or ()]
            words += sorted(p.stem for p in CONFIGS.glob("*.py")) * (action.dest == "config")
    return words


def _fish(words: dict[str, list[str]]) -> list[str]:
    from jaxcnn.cli.main import find, sentence

    first = "complete -c jaxcnn -n __fish_use_subcommand -a"
    then = "complete -c jaxcnn -n '__fish_seen_subcommand_from"
    return [
        *(f"{first} {name} -d {shlex.quote(sentence(find(name)[1]))}" for name in words),
        *(f"{then} {name}' -a {shlex.quote(' '.join(w))}" for name, w in words.items()),
    ]
